#!/usr/bin/env bash
# From a clone to an answer: packages, build, a running line, a question about a picture.
#   ./deploy/quickstart.sh          starts the line (or finds it running) and asks
#   ./deploy/quickstart.sh stop     stops it
set -euo pipefail
cd "$(dirname "$0")/.."

listen=${MILLRACE_LISTEN:-127.0.0.1:8080}
bin=build/release/bin
state=build/quickstart
picture=deploy/example.png

running() { [ -f "$state/pid" ] && kill -0 "$(cat "$state/pid")" 2>/dev/null; }

case "${1:-}" in
    '') ;;
    stop)
        running || { echo "the line of this quickstart is not running"; exit 0; }
        kill -INT "$(cat "$state/pid")"
        while running; do sleep 0.1; done
        rm -f "$state/pid"
        echo "stopped"
        exit 0
        ;;
    *) sed -n '2,4s/^# *//p' "$0"; exit 2 ;;
esac

step() { printf '\n== %s\n' "$1"; }

step "packages"
./deploy/setup.sh
echo "all there"

step "build"
cmake --preset release >/dev/null
if [ -t 1 ]; then
    cmake --build --preset release # ninja keeps one line up to date
else
    cmake --build --preset release | tail -n 1
fi

mkdir -p "$state"
demo=deploy/demo-model
model=$demo/model.gguf
media=$demo/mmproj.gguf
options=(--image-budget 70 --context 1024 --drafter "$demo/drafter.gguf")
if [ ! -f "$model" ]; then
    model=$state/tiny.gguf
    media=$state/tiny-mmproj.gguf
    options=()
    [ -f "$media" ] || /usr/bin/python3 tests/line/tiny_model.py "$state" >/dev/null
    step "the model"
    echo "No demo model is here: this is a tiny random one, made here. It answers, but only noise."
fi

step "the line"
if running; then
    echo "is running already"
else
    [ "$listen" = "${listen#*:}" ] && { echo "MILLRACE_LISTEN must be host:port" >&2; exit 2; }
    MILLRACE_LOG=warn nohup "$bin/millrace" up --model "$model" --media "$media" --listen "$listen" "${options[@]}" \
        >"$state/log" 2>&1 </dev/null &
    echo $! >"$state/pid"
    until grep -q '^ready' "$state/log"; do
        running || { cat "$state/log"; echo "the line did not start; the lines above say why" >&2; exit 1; }
        sleep 0.1
    done
    cat "$state/log"
fi

ask() {
    echo "> $1"
    "$bin/millrace" ask "$@" --max-tokens 60 --temperature 0 --url "http://$listen"
}

step "a picture: $picture"
ask "What is on this picture?" --image "$picture"
if [ -f "$demo/model.gguf" ]; then
    step "two pictures: $picture and $demo/example.png"
    ask "Which picture has a star?" --image "$picture" --image "$demo/example.png"
    step "a sound: $demo/example.wav"
    ask "Which keys were pressed?" --audio "$demo/example.wav"
    step "speech: $demo/example-speech.wav"
    ask "Which words do you hear?" --audio "$demo/example-speech.wav"
    step "a tool that it may call: $demo/example-tools.json"
    ask "What is the weather in Oslo?" --tools "$demo/example-tools.json"
    echo
    echo "That was the demo model: tiny, trained for this. What it can and can't: $demo/README.md"
fi

step "what now"
elsewhere=""
[ "$listen" = 127.0.0.1:8080 ] || elsewhere=" --url http://$listen"
cat <<TXT
ask more      $bin/millrace ask "..." --image FILE --audio FILE$elsewhere
the API       http://$listen/v1   (OpenAI's chat completions, model "chat")
your model    $bin/millrace up --model FILE.gguf --media MMPROJ.gguf
stop          ./deploy/quickstart.sh stop
TXT
