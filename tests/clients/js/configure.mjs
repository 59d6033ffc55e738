// node --import ./configure.mjs: points the client at a hub before a program that knows nothing of it runs.
import { configure } from "./ways.mjs";

configure(process.env.WAY);
