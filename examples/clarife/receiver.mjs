// A receiver as Clarife's "Webhooks" describe one:
//
//   node receiver.mjs --secret SECRET [--secret SECRET ...] [--fail N]
//
// It serves https on port 9443 (or $PORT) with cert.pem and key.pem, and prints what arrives. It refuses (401) what is signed
// with none of the secrets: each subscription has its own. /hook answers 500 to the first N requests.
import { readFileSync } from "node:fs";
import https from "node:https";
import { parseArgs } from "node:util";

// From here to the mark: what Clarife publishes ("Node.js Verification Example"), word for word.
import crypto from "crypto";

function verifyWebhookSignature(payload, signature, secret) {
  const [tPart, v1Part] = signature.split(",");
  const timestamp = tPart.replace("t=", "");
  const receivedHmac = v1Part.replace("v1=", "");

  // Reject if timestamp is older than 5 minutes
  const age = Date.now() / 1000 - parseInt(timestamp);
  if (age > 300) return false;

  const expectedHmac = crypto
    .createHmac("sha256", secret)
    .update(JSON.stringify(payload))
    .digest("hex");

  return crypto.timingSafeEqual(
    Buffer.from(receivedHmac, "hex"),
    Buffer.from(expectedHmac, "hex")
  );
}
// ---- the mark ----

const { values: options } = parseArgs({
  options: { secret: { type: "string", multiple: true, default: [] }, fail: { type: "string", default: "0" } },
});
let failures = Number(options.fail);

function isGenuine(body, signature) {
  try {
    const payload = JSON.parse(body);
    return options.secret.some((secret) => verifyWebhookSignature(payload, signature, secret));
  } catch {
    // Corrected: the published code throws where the header is missing, or not of the length and form that it expects.
    return false;
  }
}

async function answer(request, response) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks).toString();
  const genuine = isGenuine(body, request.headers["x-clarife-signature"]);
  const status = !genuine ? 401 : request.url === "/hook" && failures-- > 0 ? 500 : 200;
  console.log(`${request.url} ${genuine ? "✓ verified" : "✗ refused"} → ${status}  ${body}`);
  response.writeHead(status).end();
}

// Whoever breaks off in the middle ends his own request only.
const handle = (request, response) => answer(request, response).catch(() => response.writeHead(500).end());
const port = Number(process.env.PORT ?? 9443);
https
  .createServer({ cert: readFileSync("cert.pem"), key: readFileSync("key.pem") }, handle)
  .listen(port, "127.0.0.1", () => console.log(`Listening on https://127.0.0.1:${port}`));
