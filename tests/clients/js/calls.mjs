// Every call of the official client, each with what its user sees. `input` and names of gates come from the test.
import { createHash } from "node:crypto";
import { ApiError, ValidationError, fal } from "@fal-ai/client";
import { HUB, configure } from "./ways.mjs";

const APP = process.env.APP;
const SITE = process.env.SITE;

// ---- what the test's own site does: open a gate, tell who left

async function site(path, method = "GET") {
  const reply = await fetch(SITE + path, { method });
  if (!reply.ok) {
    throw new Error(`${path}: ${reply.status} ${await reply.text()}`);
  }
  return reply.json();
}
const open = (gate) => site(`/gate/${gate}`, "POST");
const arrived = (gate) => site(`/arrived/${gate}`);
const left = (gate) => site(`/left/${gate}`);

function shown(error) {
  const more = error instanceof ValidationError ? { fieldErrors: error.fieldErrors, promptErrors: error.getFieldErrors("prompt") } : {};
  const api = error instanceof ApiError ? { status: error.status, body: error.body, requestId: error.requestId } : {};
  const kinds = { api: error instanceof ApiError, validation: error instanceof ValidationError, userTimeout: error.isUserTimeout };
  return { name: error.name, message: error.message, ...api, ...more, ...kinds };
}

async function refusal(promise) {
  try {
    await promise;
  } catch (error) {
    return shown(error);
  }
  throw new Error("nothing was refused");
}

async function until(check) {
  for (;;) {
    const found = await check();
    if (found) {
      return found;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const standing = (requestId, status) =>
  until(async () => {
    const told = await fal.queue.status(APP, { requestId, logs: true });
    return told.status === status ? told : null;
  });

export const hook = ({ name }) => site(`/hook/${name}`);

// ---- calls

export async function run({ app = APP, ...options }) {
  return fal.run(app, options);
}

export async function refused_run({ app = APP, ...options }) {
  return refusal(fal.run(app, options));
}

export async function subscribe({ app = APP, ...options }) {
  const updates = [];
  const enqueued = [];
  const result = await fal.subscribe(app, {
    ...options,
    onEnqueue: (id) => enqueued.push(id),
    onQueueUpdate: (update) => updates.push({ status: update.status, logs: update.logs?.map((line) => line.message) }),
  });
  return { result, updates, enqueued };
}

export async function refused_subscribe(options) {
  return refusal(fal.subscribe(APP, options));
}

// From the queue to the end, with a look at every stage. The gate keeps the model at work meanwhile.
export async function stages({ gate, ...options }) {
  const submitted = await fal.queue.submit(APP, options);
  const requestId = submitted.request_id;
  await arrived(gate);
  const running = await standing(requestId, "IN_PROGRESS");
  const silent = await fal.queue.status(APP, { requestId });
  const early = await refusal(fal.queue.result(APP, { requestId }));
  await open(gate);
  const completed = await standing(requestId, "COMPLETED");
  return { submitted, running, silent, early, completed, result: await fal.queue.result(APP, { requestId }) };
}

export async function stream_status({ gate, ...options }) {
  const { request_id: requestId } = await fal.queue.submit(APP, options);
  await arrived(gate);
  const stream = await fal.queue.streamStatus(APP, { requestId, logs: true });
  const seen = [];
  stream.on("data", (status) => {
    if (seen.push(status) === 1) {
      open(gate);
    }
  });
  return { seen, done: await stream.done() };
}

export async function subscribe_to_status({ options, mode }) {
  const { request_id: requestId } = await fal.queue.submit(APP, options);
  const updates = [];
  const done = await fal.queue.subscribeToStatus(APP, { requestId, mode, pollInterval: 50, logs: true, onQueueUpdate: (one) => updates.push(one) });
  return { done, updates };
}

// The lane takes one request at a time: the first one works, the second waits.
export async function cancel({ gate, first, second }) {
  const running = (await fal.queue.submit(APP, first)).request_id;
  await arrived(gate);
  const waiting = (await fal.queue.submit(APP, second)).request_id;
  const position = (await fal.queue.status(APP, { requestId: waiting })).queue_position;
  const told = {};
  for (const [name, requestId] of Object.entries({ waiting, running })) {
    await fal.queue.cancel(APP, { requestId });
    const status = await standing(requestId, "COMPLETED");
    told[name] = {
      status,
      result: await refusal(fal.queue.result(APP, { requestId })),
      again: await refusal(fal.queue.cancel(APP, { requestId })),
    };
  }
  await left(gate);
  return { position, ...told };
}

export async function unknown_request({ requestId }) {
  const told = {};
  for (const name of ["status", "result", "cancel"]) {
    told[name] = await refusal(fal.queue[name](APP, { requestId }));
  }
  return told;
}

// What an application's own server does for its pages: a token for one app.
const tokens = [];
async function tokenProvider(app) {
  tokens.push(app);
  const reply = await fetch(`${HUB}/fal/rest/tokens/`, {
    method: "POST",
    headers: { authorization: `Key ${process.env.KEY}`, "content-type": "application/json" },
    body: JSON.stringify({ allowed_apps: [app.split("/")[1]], token_expiration: 60 }),
  });
  return reply.json();
}

export async function stream({ connectionMode, input, provided }) {
  const stream = await fal.stream(APP, { input, connectionMode, ...(provided && { tokenProvider }) });
  const events = [];
  for await (const event of stream) {
    events.push(event);
  }
  return { events, done: await stream.done(), requestId: stream.requestId, tokens };
}

export async function refused_stream({ input }) {
  const stream = await fal.stream(APP, { input });
  return refusal(stream.done());
}

export async function aborted_stream({ gate, input }) {
  const stream = await fal.stream(APP, { input });
  await new Promise((resolve) => stream.on("data", resolve));
  stream.abort();
  return { partial: await stream.done(), left: await left(gate) };
}

export async function realtime({ inputs, bad, provided }) {
  const results = [];
  const errors = [];
  let settle;
  const connection = fal.realtime.connect(APP, {
    throttleInterval: 0,
    maxBuffering: 2,
    ...(provided && { tokenProvider, tokenExpirationSeconds: 60 }),
    onResult: (result) => settle(results.push(result)),
    onError: (error) => settle(errors.push(shown(error))),
  });
  for (const input of [...inputs, bad]) {
    const answered = new Promise((resolve) => (settle = resolve));
    connection.send(input);
    await answered;
  }
  settle = () => {};
  connection.close();
  return { results, errors, tokens };
}

const sha = (bytes) => createHash("sha256").update(bytes).digest("hex");

async function fetched(url) {
  const reply = await fetch(url);
  const bytes = Buffer.from(await reply.arrayBuffer());
  return { url, status: reply.status, type: reply.headers.get("content-type"), size: bytes.length, same: sha(bytes) };
}

export async function upload({ text, type, name, lifecycle }) {
  const data = name ? new File([text], name, { type }) : new Blob([text], { type });
  return { ...(await fetched(await fal.storage.upload(data, { lifecycle }))), sent: sha(Buffer.from(text)) };
}

export async function upload_large({ bytes }) {
  const data = Buffer.alloc(bytes);
  for (let at = 0; at < bytes; at += 4096) {
    data.writeUInt32LE(at, at);
  }
  return { ...(await fetched(await fal.storage.upload(new File([data], "large.bin", { type: "application/x-large" })))), sent: sha(data) };
}

export async function transform({ base64 }) {
  const picture = new Blob([Buffer.from(base64, "base64")], { type: "image/png" });
  const input = await fal.storage.transformInput({ image_url: picture, list: [picture, "text"], deep: { number: 7 } });
  return { input, back: await fetched(input.image_url), sent: sha(Buffer.from(base64, "base64")) };
}

export async function picture_of_ours({ base64, prompt, by }) {
  const picture = new File([Buffer.from(base64, "base64")], "box.png", { type: "image/png" });
  const image_url = by === "upload" ? await fal.storage.upload(picture) : picture;
  return fal.run(APP, { input: { image_url, prompt } });
}

export async function submit({ options }) {
  return fal.queue.submit(APP, options);
}

export async function submitted_twice({ options, other }) {
  const first = await fal.queue.submit(APP, options);
  const second = await fal.queue.submit(APP, options);
  return { first, second, other: await refusal(fal.queue.submit(APP, { ...options, input: other })) };
}

// One works; a low one is submitted before a normal one, and takes its turn after it.
export async function priorities({ gate, first, low, normal }) {
  await fal.queue.submit(APP, first);
  await arrived(gate);
  const lower = (await fal.queue.submit(APP, { ...low, priority: "low" })).request_id;
  const usual = (await fal.queue.submit(APP, { ...normal, priority: "normal", hint: "lora-1" })).request_id;
  const place = async (requestId) => (await fal.queue.status(APP, { requestId })).queue_position;
  // A position that was told a moment ago may still be told.
  const positions = { low: await until(() => place(lower)), normal: await place(usual) };
  await open(gate);
  for (const requestId of [usual, lower]) {
    await standing(requestId, "COMPLETED");
  }
  return { positions };
}

export async function start_timeout({ gate, first, second }) {
  await fal.queue.submit(APP, first);
  await arrived(gate);
  const requestId = (await fal.queue.submit(APP, { ...second, startTimeout: 1.1 })).request_id;
  const status = await standing(requestId, "COMPLETED");
  const result = await refusal(fal.queue.result(APP, { requestId }));
  await open(gate);
  return { status, result };
}

export async function client_timeout({ gate, options }) {
  const error = await refusal(fal.subscribe(APP, { ...options, timeout: 700 }));
  return { error, left: await left(gate) };
}

export async function aborted_run({ gate, input }) {
  const controller = new AbortController();
  const refused = refusal(fal.run(APP, { input, abortSignal: controller.signal }));
  await arrived(gate);
  controller.abort();
  return { error: await refused, left: await left(gate) };
}

export async function aborted_subscribe({ gate, input }) {
  const controller = new AbortController();
  const refused = refusal(fal.subscribe(APP, { input, abortSignal: controller.signal, pollInterval: 20 }));
  await arrived(gate);
  controller.abort();
  const error = await refused;
  await open(gate);
  return { error };
}

export async function another_key({ key, input }) {
  configure(process.env.WAY, { credentials: key });
  return refusal(fal.run(APP, { input }));
}
