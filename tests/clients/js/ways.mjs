// The three ways in which an application points fal's client at a hub, and what a browser has and Node 20 lacks.
import { fal } from "@fal-ai/client";
import WebSocket from "ws";

export const HUB = process.env.HUB;
const PREFIXES = {
  "fal.run": "/fal/run",
  "queue.fal.run": "/fal/queue",
  "rest.fal.ai": "/fal/rest",
  "v3.fal.media": "/fal/cdn",
};

export function toHub(text) {
  const url = new URL(text);
  const prefix = PREFIXES[url.host];
  return prefix === undefined ? text : HUB + prefix + url.pathname + url.search;
}

const WAYS = {
  proxy: { proxyUrl: { url: `${HUB}/fal/proxy`, when: "always" } },
  middleware: { requestMiddleware: async (request) => ({ ...request, url: toHub(request.url) }) },
  fetch: { fetch: (url, options) => fetch(toHub(String(url)), options) },
};

export function configure(way, more = {}) {
  fal.config({ credentials: process.env.KEY, ...WAYS[way], ...more });
}

// The realtime client takes no hook: its address is a constant, and only the global can be replaced.
globalThis.WebSocket = class extends WebSocket {
  constructor(url) {
    const { host, pathname, search } = new URL(url);
    if (host !== "fal.run") {
      throw new Error(`not an address of fal's: ${url}`);
    }
    super(`${HUB.replace(/^http/, "ws")}/fal/run${pathname}${search}`);
    this.binaryType = "arraybuffer";
  }
};
