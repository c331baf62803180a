// Between the marks: what Clarife publishes for its customers ("Signature Verification", Node.js example), word for word.
// ---- published ----
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
// ---- published ----

// One request to a line: {body, signature, secret}.
import readline from "readline";

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const { body, signature, secret } = JSON.parse(line);
  process.stdout.write(JSON.stringify(verifyWebhookSignature(JSON.parse(body), signature, secret)) + "\n");
});
