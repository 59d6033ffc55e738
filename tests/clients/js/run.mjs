// node run.mjs NAME [JSON]: run one call of calls.mjs; the last line on standard output is what came of it, as JSON.
import * as calls from "./calls.mjs";
import { configure } from "./ways.mjs";

const [name, given] = process.argv.slice(2);
configure(process.env.WAY);
const told = await calls[name](JSON.parse(given ?? "{}"));
process.stdout.write(`\n${JSON.stringify(told)}\n`, () => process.exit(0));
