#!/usr/bin/env bash
# A hub in front of simulated hosted models, and every kind of call through it, made with plain curl; what comes back is looked at.
#
#     bash examples/hosted-simulated/run.sh
#
# No network, no account, no key. PYTHON names a Python that has the package; without it .venv's is taken, then python3. The last
# line says "N passed, M failed", and the exit status is 0 only if nothing failed. WRONG_KEY=nvidia-image (or nvidia-audio,
# nvidia-video, nvidia-upstream) stores a key there that the service refuses, to see that it is noticed, and where.
set -euo pipefail

unset CDPATH
here=$(cd "$(dirname "$0")" && pwd)
venv=$here/../../.venv/bin
PYTHON=${PYTHON:-$([ -x "$venv/python" ] && echo "$venv/python" || echo python3)}
if ! "$PYTHON" -c 'import sensorium'; then
  echo "$PYTHON has no package sensorium; install it (make setup), or name another Python: PYTHON=... $0" >&2
  exit 1
fi
PYTHON=$(cd "$(dirname "$(command -v "$PYTHON")")" && pwd)/$(basename "$PYTHON")
PATH=$(dirname "$PYTHON"):$PATH
work=$(mktemp -d "${TMPDIR:-/tmp}/sensorium.XXXXXX")
pids=()
passed=0
failed=0

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
trap 'exit 130' INT TERM

sensorium() { "$PYTHON" -m sensorium.cli "$@"; }
look() { "$PYTHON" "$here/look.py" "$@"; }

# start NAME ARGUMENT...: runs a sensorium command beside this script until `stop`, and sets `address` to where it says that it is.
start() {
  local log=$1.log
  shift
  : > "$log"
  "$PYTHON" -m sensorium.cli "$@" >> "$log" 2>&1 &
  pids+=($!)
  for _ in {1..600}; do
    address=$(sed -n 's/^S.* \(http:[^ ]*\)$/\1/p' "$log")
    [ -z "$address" ] || return 0
    kill -0 "${pids[${#pids[@]} - 1]}" 2>/dev/null || break
    sleep 0.1
  done
  printf 'sensorium %s did not start:\n' "$1" >&2
  cat "$log" >&2
  exit 1
}

# check NAME COMMAND...: counts, and prints in one line, whether COMMAND is content and what it says.
check() {
  local name=$1 said
  shift
  if said=$("$@" 2>&1); then
    passed=$((passed + 1))
    printf 'passed  %-20s %s\n' "$name" "$said"
  else
    failed=$((failed + 1))
    printf 'failed  %-20s %s\n' "$name" "$said"
  fi
}

# call LINES: runs them in an empty state; what they print goes into `printed`, and the head of the reply, by .curlrc, into `head`.
call() {
  rm -f printed head out.json out.png speech.wav
  "$@" > printed 2> trouble || true
}

# The calls of the skill document, as they stand there; only what it has in <> is filled in.

vision() {
B64=$(base64 -w0 path/to/image.png)
curl -s -X POST "$MAC_HUB_URL/v1/chat/completions" \
-H "Authorization: Bearer $MAC_API_TOKEN" -H 'Content-Type: application/json' \
-d "{\"model\":\"*\",\"max_tokens\":300,\"messages\":[{\"role\":\"user\",\"content\":[
{\"type\":\"text\",\"text\":\"Describe this image.\"},
{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/png;base64,$B64\"}}]}]}"
}

schnell() {
curl -s -X POST "$MAC_HUB_URL/v1/genai/black-forest-labs/flux.1-schnell" \
-H "Authorization: Bearer $MAC_API_TOKEN" -H 'Accept: application/json' -H 'Content-Type: application/json' \
-d '{"prompt":"a red cube on a white table","steps":4,"seed":0}' -o out.json
}

dev() {
curl -s -X POST "$MAC_HUB_URL/v1/genai/black-forest-labs/flux.1-dev" \
-H "Authorization: Bearer $MAC_API_TOKEN" -H 'Content-Type: application/json' \
-d '{"prompt":"a red cube on a white table","steps":8,"seed":0}' -o out.json
}

decode() {
python3 -c "import json,base64,sys; d=json.load(open('out.json'));
b=(d.get('artifacts') or [{}])[0].get('base64') or d.get('image') or d.get('b64_json');
open('out.png','wb').write(base64.b64decode(b)) if b else sys.exit('no image: '+str(d)[:200])"
}

transcription() {
curl -s -X POST "$MAC_HUB_URL/v1/audio/transcriptions" \
-H "Authorization: Bearer $MAC_API_TOKEN" -F file=@clip.wav -F model=nvidia/parakeet-ctc-1.1b-en-us
}

synthesis() {
curl -s -X POST "$MAC_HUB_URL/v1/audio/synthesize" \
-H "Authorization: Bearer $MAC_API_TOKEN" -H 'Content-Type: application/json' \
-d '{"text":"hello","voice":"Magpie-Multilingual.EN-US.Aria"}' -o speech.wav
}

video() {
curl -s -X POST "$MAC_HUB_URL/v1/video/nvidia/cosmos-predict1-7b" \
-H "Authorization: Bearer $MAC_API_TOKEN" -H 'Content-Type: application/json' \
-d '{"prompt":"a drone shot over a forest","seed":0}' -o out.json
}

# Ours: the picture is piped, so that it may be of any size; and the modality that the document only names.

piped() {
{ printf '%s' '{"model":"*","max_tokens":300,"messages":[{"role":"user","content":[
{"type":"text","text":"Describe this image."},{"type":"image_url","image_url":{"url":"data:image/png;base64,'
  base64 < "$1" | tr -d '\r\n'; printf '%s' '"}}]}]}'; } |
curl -sS -X POST "$MAC_HUB_URL/v1/chat/completions" -H "Authorization: Bearer $MAC_API_TOKEN" \
  -H 'Content-Type: application/json' --data-binary @-
}

embedding() {
curl -sS -X POST "$MAC_HUB_URL/v1/embeddings" -H "Authorization: Bearer $MAC_API_TOKEN" \
  -H 'Content-Type: application/json' -d '{"model":"*","input":"a red cube"}'
}

# Every key went out, each to its own place, since the vault hands it out for no other.
own_keys() {
  local used
  used=$(sensorium secret --settings hub.toml audit | awk '$3 == "reveal" { print $4 }' | sort -u | xargs)
  echo "used: $used"
  [ "$used" = "$secrets" ]
}

# A base64 without -w0 prints one line of its own accord, or is made to.
base64 -w0 < /dev/null > /dev/null 2>&1 || base64() { if [ "${1:-}" = -w0 ]; then command base64 < "$2" | tr -d '\r\n'; else command base64; fi; }

cd "$work"
printf 'dump-header = "head"\n' > .curlrc
look make

# The service, with a key for each modality.
secrets="nvidia-audio nvidia-image nvidia-upstream nvidia-video"
start simulator simulate nvidia --port 0 --rpm 0 $(for name in $secrets; do echo --key "nvapi-of-$name"; done)
nvidia=$address

# The hub, set up as in front of the real service: there every URL begins with https:// where it begins with $nvidia/ here.
sensorium init --settings hub.toml --data-dir data \
  --chat "$nvidia/integrate.api.nvidia.com/v1" --model vision=meta/llama-3.2-90b-vision-instruct \
  --embeddings "$nvidia/integrate.api.nvidia.com/v1" --model embed=nvidia/nv-embedqa-e5-v5 \
  --image "$nvidia/ai.api.nvidia.com/v1/genai" \
  --audio "$nvidia/877104f7-e885-42b9-8de8-f6e4c6303969.invocation.api.nvcf.nvidia.com/v1/audio" \
  --asr "$nvidia/1598d209-5e27-4d3c-8079-4751568b1081.invocation.api.nvcf.nvidia.com/v1/audio" \
  --video "$nvidia/ai.api.nvidia.com/v1/cosmos" > init.log
printf '\n[local]\nenabled = false\n' >> hub.toml # no shipped model answers for anybody here
for name in $secrets; do
  key=nvapi-of-$name
  [ "$name" != "${WRONG_KEY:-}" ] || key=nvapi-revoked
  printf '%s\n' "$key" | sensorium secret --settings hub.toml put "$name" >> init.log
done
MAC_API_TOKEN=$("$PYTHON" -c 'import secrets; print(secrets.token_urlsafe())')
export MAC_API_TOKEN
start hub serve --settings hub.toml --port 0
export MAC_HUB_URL=$address

call vision
check 'vision, 90 kB' look router.chat answer printed 'a picture of 300x298 pixels'
call schnell
check 'FLUX.1 schnell' look router.image artifact out.json
decode 2> trouble || true
check '  decoded' look router.image picture out.png
call dev
check 'FLUX.1 dev' look router.image artifact out.json
decode 2> trouble || true
check '  decoded' look router.image picture out.png
call transcription
check 'transcription' look router.audio transcript printed 'a sound of 1.00 seconds at 440 hertz'
call synthesis
check 'synthesis' look router.audio wave speech.wav
call video
check 'video' look router.video video out.json
call piped path/to/image.png
check 'vision, piped, 90 kB' look router.chat answer printed 'a picture of 300x298 pixels'
call piped large.png
check 'vision, piped, 3 MB' look router.chat answer printed 'a picture of 1000x1000 pixels'
call embedding
check 'embedding' look router.embeddings vector printed
stop
check 'a key for each' own_keys

printf '\n%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
