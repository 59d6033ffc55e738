#!/usr/bin/env bash
# Submit and forget: a picture is asked for through the queue, its end comes as a signed webhook, its file is fetched and asked about.
#
#     bash examples/queue/run.sh
#
# No network, no account, no key: the shipped models answer. PYTHON names a Python that has the package; without it .venv's is taken, then
# python3. It starts a hub and a receiver of its own, and leaves nothing behind. The exit status is 0 only if all of it worked.
set -Eeuo pipefail

unset CDPATH
here=$(cd "$(dirname "$0")" && pwd)
venv=$here/../../.venv/bin
PYTHON=${PYTHON:-$([ -x "$venv/python" ] && echo "$venv/python" || echo python3)}
if ! "$PYTHON" -c 'import sensorium'; then
  echo "$PYTHON has no package sensorium; install it (make setup), or name another Python: PYTHON=... $0" >&2
  exit 1
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/sensorium.XXXXXX")
pids=()

# What the caller's environment says about other hubs, their master keys and proxies is not for this one.
unset MAC_HUB_URL SENSORIUM_MASTER_KEY SENSORIUM_MASTER_KEY_FILE
export no_proxy='*' NO_PROXY='*' CURL_HOME=$work

stop() {
  local pid
  for pid in ${pids[@]+"${pids[@]}"}; do kill "$pid" 2>/dev/null || true; done
  for pid in ${pids[@]+"${pids[@]}"}; do wait "$pid" 2>/dev/null || true; done
  pids=()
}
trap 'stop; rm -rf "$work"' EXIT
trap 'echo "failed at line $LINENO: $BASH_COMMAND" >&2; cat "$work"/*.log >&2' ERR
trap 'exit 130' INT TERM

# start NAME COMMAND...: runs it beside this script until `stop`, and sets `address` to where it says that it is.
start() {
  local log=$1.log
  shift
  : > "$log"
  "$@" >> "$log" 2>&1 &
  pids+=($!)
  for _ in {1..600}; do
    address=$(sed -n 's/.* \(http:[^ ]*\)$/\1/p' "$log" | head -n 1)
    [ -z "$address" ] || return 0
    kill -0 "${pids[${#pids[@]} - 1]}" 2>/dev/null || break
    sleep 0.1
  done
  cat "$log" >&2
  exit 1
}

# member FILE NAME...: what stands there in a file of JSON.
member() {
  "$PYTHON" -c '
import json, sys
found = json.load(open(sys.argv[1], encoding="utf-8"))
for name in sys.argv[2:]:
    found = found[int(name) if name.isdecimal() else name]
print(found)' "$@"
}
call() { curl -fsS -H "Authorization: Key $MAC_API_TOKEN" "$@"; }

cd "$work"
MAC_API_TOKEN=$("$PYTHON" -c 'import secrets; print("me:" + secrets.token_urlsafe())')
export MAC_API_TOKEN

# The receiver is on a private address, so the hub's operator has to list it.
start receiver "$PYTHON" "$here/receiver.py" hub.address notified.json
receiver=$address
start hub "$PYTHON" -m sensorium.cli serve --port 0 --data-dir data --allow-egress "${receiver#http://}"
export MAC_HUB_URL=$address
echo "$MAC_HUB_URL" > hub.address

# Twice, as a client does that has lost the first reply: the key makes it one request.
for reply in submitted.json again.json; do
  call "$MAC_HUB_URL/fal/queue/fal-ai/flux/schnell?fal_webhook=$receiver/ended" -H 'Idempotency-Key: order-1' -H 'Content-Type: application/json' \
    -d '{"prompt": "a red cube on a white table", "image_size": "square", "output_format": "png", "seed": 1}' -o "$reply"
done
id=$(member submitted.json request_id)
[ "$id" = "$(member again.json request_id)" ]
echo "submitted   $id, twice, as one request"

# Nobody polls. The receiver ends when it has a notification whose signature is good.
wait "${pids[0]}"
[ "$id" = "$(member notified.json request_id)" ]
echo "told        $(member notified.json status), signed"

# The link is its own right: no token is sent.
curl -fsS "$(member notified.json payload images 0 url)" -o cube.png
echo "downloaded  $(wc -c < cube.png | xargs) bytes of $(member notified.json payload images 0 content_type)"

# What is uploaded once is named by its link, as often as wanted.
call "$MAC_HUB_URL/fal/cdn/files/upload" -H 'Content-Type: image/png' -H 'X-Fal-File-Name: cube.png' --data-binary @cube.png -o uploaded.json
call "$MAC_HUB_URL/fal/run/fal-ai/nemotron-diffusion-vlm" -H 'Content-Type: application/json' \
  -d "{\"image_url\": \"$(member uploaded.json access_url)\", \"prompt\": \"Describe this image.\"}" -o seen.json
echo "seen        $(member seen.json output)"

call "$MAC_HUB_URL/v1/requests/$id" -o request.json
echo "recorded    $(member request.json state), attempt $(member request.json attempt)"
for _ in {1..100}; do # the try is written down after it was made
  call "$MAC_HUB_URL/v1/requests/$id/deliveries" -o deliveries.json
  [ "$(member deliveries.json state)" != delivered ] || break
  sleep 0.1
done
echo "delivered   at the first try, answered $(member deliveries.json data 0 status)"
