// Each line of the input is a JSON text as a JSON string; each line of the output is what JavaScript makes of it.
import readline from "readline";

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  process.stdout.write(JSON.stringify(JSON.stringify(JSON.parse(JSON.parse(line)))) + "\n");
});
