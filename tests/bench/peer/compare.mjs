// compare.mjs - the same model file through llama.cpp and through `millrace bench`, in turn, the one
// idle while the other runs; medians and their ratio.
//
//   npm install --no-package-lock --ignore-scripts && node compare.mjs MODEL.gguf [--rounds 3] [--threads 2] [--bin ../../../build/release/bin]
//   node compare.mjs MODEL.gguf --llama-bench "FOLDER/llama-bench -rtr 1"
//
// llama.cpp comes as the npm package node-llama-cpp; `--streams 4,8` also decodes that many answers at
// once. Or it is any program that speaks as llama-bench does (also ik_llama.cpp's, whose best setting is
// -rtr 1), with options of its own behind its path. Needs memory for the file twice: llama.cpp keeps
// weights in a layout of its own.
import {execFileSync} from "node:child_process";
import {parseArgs} from "node:util";
import os from "node:os";
import path from "node:path";

const {values, positionals} = parseArgs({
    allowPositionals: true,
    options: {
        rounds: {type: "string", default: "3"},
        threads: {type: "string", default: String(os.availableParallelism())},
        streams: {type: "string", default: "4"},
        "llama-bench": {type: "string"},
        bin: {type: "string", default: path.join(import.meta.dirname, "../../../build/release/bin")}
    }
});
if (positionals.length !== 1) {
    console.error("usage: node compare.mjs MODEL.gguf [--rounds N] [--threads N] [--streams 4,8] [--bin FOLDER]\n" +
                  "                        [--llama-bench \"PATH OPTIONS\"]");
    process.exit(2);
}
const [file] = positionals;
const rounds = Number(values.rounds), threads = Number(values.threads);
const streams = values["llama-bench"] ? [] : values.streams.split(",").filter(Boolean).map(Number);
const STEPS = 12;
const keys = {128: "prefill_tokens_per_s", 512: "prefill512_tokens_per_s"};

// ---------------------------------------------------------------- llama.cpp, as a package
async function packagePeer() {
    const {getLlama} = await import("node-llama-cpp");
    const llama = await getLlama({gpu: false, build: "never", maxThreads: threads, progressLogs: false, logLevel: "error"});
    const model = await llama.loadModel({modelPath: file});
    const context = await model.createContext({
        contextSize: 1024, sequences: Math.max(1, ...streams), batchSize: 512, threads
    });
    const word = i => 512 + i * 7919 % (200000 - 512);
    const prompt = (n, from = 0) => Array.from({length: n}, (_, i) => word(i + from));
    const seconds = async work => {
        const begun = performance.now();
        await work();
        return (performance.now() - begun) / 1000;
    };
    const greedy = {temperature: 0, yieldEogToken: true};

    async function prefill(n) {
        const sequence = context.getSequence();
        // as on our side, the time ends with the first token chosen
        const s = await seconds(async () => {
            for await (const _ of sequence.evaluate(prompt(n), greedy)) break;
        });
        sequence.dispose();
        return n / s;
    }

    async function decode(n) {
        const all = Array.from({length: n}, () => context.getSequence());
        await Promise.all(all.map((s, i) => s.evaluateWithoutGeneratingNewTokens(prompt(16, i))));
        const s = await seconds(() => Promise.all(all.map(async (sequence, i) => {
            let given = 0;
            for await (const _ of sequence.evaluate([word(i + 99)], greedy)) if (++given === STEPS) break;
        })));
        all.forEach(sequence => sequence.dispose());
        return n * STEPS / s;
    }

    await decode(1); // pages in, layouts made
    return {name: "llama.cpp", measure: async () => {
        const figures = {decode_tokens_per_s: await decode(1)};
        for (const n of Object.keys(keys)) figures[keys[n]] = await prefill(Number(n));
        for (const n of streams) figures[`batch${n}_tokens_per_s`] = await decode(n);
        return figures;
    }};
}

// ---------------------------------------------------------------- llama.cpp, as a program
function programPeer(command) {
    const [program, ...options] = command.split(" ").filter(Boolean);
    return {name: path.basename(program), measure: async () => {
        const said = execFileSync(program, [...options, "-m", file, "-t", String(threads), "-r", "1", "-o", "json",
                                            "-p", Object.keys(keys).join(","), "-n", String(STEPS)],
                                  {encoding: "utf8", stdio: ["ignore", "pipe", "ignore"]});
        const figures = {};
        // some builds print lines of their own before the list and within it
        const list = said.split("\n").filter(line => /^([[\]]|\s*[{}"])/.test(line)).join("\n");
        for (const test of JSON.parse(list)) {
            const key = test.n_gen ? "decode_tokens_per_s" : keys[test.n_prompt];
            if (key) figures[key] = test.avg_ts;
        }
        return figures;
    }};
}

// ---------------------------------------------------------------- Millrace
function ours() {
    const parts = ["decode", "prefill", ...(streams.length ? ["batch"] : [])].join(",");
    return JSON.parse(execFileSync(path.join(values.bin, "millrace"),
                                   ["bench", file, "--rounds", "1", "--threads", String(threads), "--only", parts, "--json"],
                                   {stdio: ["ignore", "pipe", "ignore"]}));
}

// ---------------------------------------------------------------- in turn
const median = list => {
    const s = [...list].sort((a, b) => a - b);
    return (s[(s.length - 1) >> 1] + s[s.length >> 1]) / 2;
};
const peer = values["llama-bench"] ? programPeer(values["llama-bench"]) : await packagePeer();
const pairs = [];
for (let i = 0; i < rounds; i++) {
    process.stderr.write(`\rround ${i + 1} of ${rounds} `);
    pairs.push(i % 2 ? {ours: ours(), peer: await peer.measure()} : {peer: await peer.measure(), ours: ours()});
}
process.stderr.write("\n");
console.log(`${file}: ${pairs[0].ours.cpu}, ${threads} threads, ${pairs[0].ours.numerics}; medians of ${rounds} pairs`);
for (const key of Object.keys(pairs[0].peer)) {
    const of = side => pairs.map(p => p[side][key]);
    console.log(key.padEnd(26), "millrace", median(of("ours")).toFixed(2).padStart(7),
                ` ${peer.name}`, median(of("peer")).toFixed(2).padStart(7),
                " ratio", median(pairs.map(p => p.ours[key] / p.peer[key])).toFixed(2));
}
console.log("answer, of bandwidth      ", median(pairs.map(p => p.ours.decode_of_limit)).toFixed(2),
            " prompt of 512, of 8-bit operations", median(pairs.map(p => p.ours.prefill_of_limit)).toFixed(2));
process.exit(0);
