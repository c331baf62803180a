// A receiver as ClearFeed's "Developer Settings" describe one:
//
//   node receiver.mjs [--secret SECRET] [--status CODE] [--fail N]
//
// It serves https on port 9443 (or $PORT) with cert.pem and key.pem, and prints a line for each request. With the signing secret
// it refuses what is not signed with it (401). --status is what it answers otherwise; --fail answers 500 to the first N events.
import crypto from "node:crypto";
import { readFileSync } from "node:fs";
import https from "node:https";
import { parseArgs } from "node:util";

// The function that ClearFeed publishes ("How to use the Signing Secret"), with two corrections.
function verifySignature(signingSecret, verb, url, body, timestamp, signature) {
  if (Math.floor(Date.now() / 1000) - timestamp > 60 * 5) {
    // The request timestamp is more than five minutes from local time.
    // It could be a replay attack, so let's ignore it.
    return;
  }
  const message = verb + url + body + timestamp;
  // Corrected: the published code reads `webhookSecret`, a name that nothing defines.
  const hmac = crypto.createHmac('sha256', signingSecret);
  const calculatedSignature = hmac.update(message).digest('hex');
  // Corrected: the published code compares with `===`, whose duration tells how much of a guess is right.
  return equalInConstantTime(signature, calculatedSignature);
}

function equalInConstantTime(given, expected) {
  const [a, b] = [Buffer.from(given), Buffer.from(expected)];
  return a.length === b.length && crypto.timingSafeEqual(a, b);
}

const { values: options } = parseArgs({
  options: { secret: { type: "string" }, status: { type: "string", default: "200" }, fail: { type: "string", default: "0" } },
});
let failures = Number(options.fail);

function verdict(request, body) {
  const timestamp = request.headers["x-cf-timestamp"];
  const signature = request.headers["x-cf-signature"];
  if (!options.secret) return signature ? "signed" : "not signed";
  // The URL as it was given to ClearFeed, which is what is signed. Behind a proxy that changes it, write it down here.
  const url = `https://${request.headers.host}${request.url}`;
  return verifySignature(options.secret, request.method, url, body, timestamp, signature ?? "") ? "✓ verified" : "✗ refused";
}

async function answer(request, response) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks).toString(); // the characters that arrived: not parsed and printed again
  const verified = verdict(request, body);
  const { id, type, sub_type: subType } = JSON.parse(body);
  const status = verified === "✗ refused" ? 401 : type !== "ping" && failures-- > 0 ? 500 : Number(options.status);
  const { "x-cf-timestamp": timestamp, "x-cf-retry-count": retryCount } = request.headers;
  console.log(`${type} ${subType} ${id}  X-CF-Timestamp: ${timestamp}  X-CF-Retry-Count: ${retryCount}  ${verified}  → ${status}`);
  response.writeHead(status).end();
}

// Whoever breaks off in the middle ends his own request only.
const handle = (request, response) => answer(request, response).catch(() => response.writeHead(500).end());
const port = Number(process.env.PORT ?? 9443);
https
  .createServer({ cert: readFileSync("cert.pem"), key: readFileSync("key.pem") }, handle)
  .listen(port, "127.0.0.1", () => console.log(`Listening on https://127.0.0.1:${port}`));
