// Between the marks: what ClearFeed publishes for its customers ("How to use the Signing Secret"), word for word. It reads
// `webhookSecret` and `crypto` from around it, and answers undefined for what is too old.
import crypto from "crypto";

let webhookSecret;

// ---- published ----
function verifySignature(signingSecret, verb, url, body, timestamp, signature) {
  if (Math.floor(Date.now() / 1000) - timestamp > 60 * 5) {
    // The request timestamp is more than five minutes from local time.
    // It could be a replay attack, so let's ignore it.
    return;
  }
  const message = verb + url + body + timestamp;
  const hmac = crypto.createHmac('sha256', webhookSecret);
  const calculatedSignature = hmac.update(message).digest('hex');
  return signature === calculatedSignature;
}
// ---- published ----

// One request to a line: {secret, verb, url, body, timestamp, signature}.
import readline from "readline";

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const { secret, verb, url, body, timestamp, signature } = JSON.parse(line);
  webhookSecret = secret;
  const answer = verifySignature(secret, verb, url, body, timestamp, signature);
  process.stdout.write(JSON.stringify(answer ?? null) + "\n");
});
