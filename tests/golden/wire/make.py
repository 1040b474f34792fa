#!/usr/bin/env python3
"""The golden bytes of the wire, made with python3-msgpack and not with our own code.

make.py          writes NAME.hex for every case
make.py --check  unpacks what is there with python3-msgpack and compares; exit status 0 or 1
"""
import pathlib
import sys

try:
    import msgpack
except ImportError:
    print("[  SKIPPED ] python3-msgpack is not there")
    sys.exit(0)

HERE = pathlib.Path(__file__).parent
RID = bytes(range(16))
RID2 = bytes(range(240, 256))

CASES = {
    "hello": {
        "kind": "hello", "wire_min": 1, "wire_max": 1, "stage": "infer", "seat": "ward7/infer/0",
        "start": 0xFEDCBA9876543210, "model": 0x8000000000000001,
        "numerics": "0.1.0 avx2 f16", "slots": 8,
    },
    "hello-least": {
        "kind": "hello", "wire_min": 1, "wire_max": 3, "stage": "upper", "seat": "h/upper/1",
        "start": 7, "slots": 1,
    },
    "welcome": {"kind": "welcome", "interval_ms": 200},
    "refuse": {"kind": "refuse", "code": 11, "text": "say hello"},
    "credit": {"kind": "credit", "n": 3},
    "job": {
        "kind": "job", "rid": RID, "epoch": 2, "skip": 40, "ms_left": 300000,
        "tenant": 0xC0FFEE0000000001,
        "fields": {
            "created": 1764000000, "style": "chat", "stream": True, "temperature": 0.7,
            "top_k": 64, "seed": -5, "stop": ["\n\n", "Ende"], "max_tokens": 0,
        },
        "blobs": [
            ["turns", "msgpack", [300]], ["tools", "json", [0]], ["image.rgb", "u8", [768, 672, 3]],
            ["audio.pcm", "f32", [160000]],
        ],
    },
    "job-least": {"kind": "job", "rid": RID, "epoch": 1, "ms_left": 0},
    "more": {
        "kind": "more", "rid": RID, "epoch": 2, "seq": 70000, "index": 69999,
        "blobs": [["tokens", "i32", [1]]],
    },
    "more-last": {
        "kind": "more", "rid": RID, "epoch": 2, "seq": 0, "last": True,
        "fields": {"finish": "stop", "prompt_tokens": 300, "decode_ms": 12.5},
    },
    "result": {
        "kind": "result", "rid": RID2, "epoch": 4294967295, "seq": 200, "last": True, "index": 128,
        "upto": 129, "blobs": [["bytes", "u8", [17]], ["soft", "bf16", [4, 5]]],
    },
    "failed": {
        "kind": "failed", "rid": RID2, "epoch": 1, "code": 5, "fault": "request",
        "text": "prompt of 40000 tokens, the context has 32768 \u2013 zu lang",
    },
    "cancel": {"kind": "cancel", "rid": RID, "epoch": 65536},
    "beat": {
        "kind": "beat", "work": 2**40, "held": 2, "memory_bytes": 7_516_192_768,
        "running": [RID, RID2],
    },
    "beat-idle": {"kind": "beat", "work": 0, "held": 0, "memory_bytes": 65535},
    "gone": {
        "kind": "gone", "code": 10, "text": "killed by signal 9", "seat": "ward7/infer/0",
        "start": 0xFEDCBA9876543210,
    },
    "drain": {"kind": "drain"},
    "bye": {"kind": "bye"},
    "turns": [
        {"role": "system", "list": False, "parts": [["text", "Antworte kurz."]]},
        {
            "role": "user", "list": True,
            "parts": [["text", "What is this?"], ["image"], ["audio"], ["video"], ["text", ""]],
            "name": "anna",
        },
        {
            "role": "assistant", "list": False, "parts": [],
            "calls": [["call_1", "look", '{"x": 1e400}']], "reasoning": "\u00e4hm",
        },
        {"role": "tool", "list": False, "parts": [["text", "42"]], "tool_call_id": "call_1"},
    ],
}


def to_hex(data):
    text = data.hex()
    return "\n".join(text[i : i + 96] for i in range(0, len(text), 96)) + "\n"


def check():
    wrong = 0
    for name, value in CASES.items():
        data = bytes.fromhex((HERE / f"{name}.hex").read_text())
        if msgpack.unpackb(data) != value or msgpack.packb(value) != data:
            print(f"{name}: differs")
            wrong += 1
    files = {path.stem for path in HERE.glob("*.hex")}
    for name in sorted(files ^ set(CASES)):
        print(f"{name}: file and case do not go together")
        wrong += 1
    print(f"{len(CASES)} cases, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(check())
    for case, content in CASES.items():
        (HERE / f"{case}.hex").write_text(to_hex(msgpack.packb(content)))
