// A page of another origin: what the official client does in a browser. The page's own server takes what came of it.
import { fal } from "@fal-ai/client";

const given = new URLSearchParams(location.search);
const [hub, key, way, picture] = ["hub", "key", "way", "picture"].map((name) => given.get(name));
const PREFIXES = { "fal.run": "/fal/run", "queue.fal.run": "/fal/queue", "rest.fal.ai": "/fal/rest" };
const toHub = (text) => {
  const url = new URL(text);
  return url.host in PREFIXES ? hub + PREFIXES[url.host] + url.pathname + url.search : text;
};
const WAYS = {
  proxy: { proxyUrl: `${hub}/fal/proxy` },
  middleware: { requestMiddleware: async (request) => ({ ...request, url: toHub(request.url) }) },
  fetch: { fetch: (url, options) => fetch(toHub(String(url)), options) },
};
const Native = globalThis.WebSocket;
globalThis.WebSocket = class extends Native {
  constructor(url) {
    super(toHub(url.replace("wss:", "https:")).replace(/^http/, "ws"));
  }
};

async function told() {
  fal.config({ credentials: key, suppressLocalCredentialsWarning: true, ...WAYS[way] });
  const app = given.get("app");
  const input = { image_url: picture, prompt: "What colour is the box?" };
  const enqueued = [];
  const answer = await fal.subscribe(app, { input, logs: true, pollInterval: 50, onEnqueue: (id) => enqueued.push(id) });
  const url = await fal.storage.upload(new File(["Hello, World!"], "hello.txt", { type: "text/plain" }));
  const back = await fetch(url);
  const refused = await fal.run(app, { input: { prompt: "no picture" } }).catch((error) => error);
  const stream = await fal.stream(app, { input });
  const realtime = await new Promise((resolve, reject) => {
    const connection = fal.realtime.connect(app, { onResult: (result) => resolve(result) || connection.close(), onError: reject });
    connection.send(input);
  });
  return {
    subscribe: answer,
    enqueued,
    upload: { url, text: await back.text(), type: back.headers.get("content-type") },
    refused: { status: refused.status, requestId: refused.requestId, fields: refused.fieldErrors?.map((fault) => fault.loc) },
    stream: await stream.done(),
    realtime,
  };
}

const made = await told().catch((error) => ({ failed: `${error.name}: ${error.message}` }));
await fetch(given.get("to"), { method: "POST", body: JSON.stringify(made) });
