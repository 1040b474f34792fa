"""The command people type: what it refuses, and that conform can fail."""
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
MILLRACE = os.path.join(os.environ.get('MILLRACE_BIN', os.path.join(ROOT, 'build', 'release', 'bin')), 'millrace')
GOLDEN = os.path.join(ROOT, 'tests', 'golden')
DEMO = os.path.join(ROOT, 'deploy', 'demo-model', 'model.gguf')
DRAFTER = os.path.join(GOLDEN, 'models', 'nano-drafter-f32.gguf')
TEXT = os.path.join(GOLDEN, 'text')
ALL_GOLDEN = os.environ.get('MILLRACE_GOLDEN', os.path.join(os.path.dirname(ROOT), 'shared', 'golden'))
LINES = ['chat', 'detokenize', 'parse', 'tokenizer', 'tokenizer-special']
sys.path.insert(0, os.path.join(ROOT, 'tests', 'line'))

import tiny_model  # noqa: E402
from line import free_port  # noqa: E402


def run_apart(*arguments):
    got = subprocess.run([MILLRACE, *arguments], capture_output=True, text=True, timeout=60)
    return got.returncode, got.stdout, got.stderr


def run(*arguments):
    status, out, err = run_apart(*arguments)
    return status, out + err


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    return tiny_model.make(str(tmp_path_factory.mktemp('tiny')))


# ---------------------------------------------------------------- help and refusals
@pytest.mark.parametrize('command', ['up', 'ask', 'inspect', 'conform', 'bench', 'doctor'])
def test_every_command_explains_itself(command):
    status, text = run(command, '--help')
    assert status == 0 and text.startswith(f'usage: millrace {command}')
    assert run('help', command) == (0, text)
    assert run(command, '--no-such-option')[0] == 2


@pytest.mark.parametrize('options', [['--scale', '2'], ['--rounds', '0'], ['--depth', '0'], ['--type', 'q3_k'], ['--only', 'decode,nap'],
                                     ['a.gguf', 'b.gguf'], ['a.gguf', '--keep', 'b.gguf']])
def test_bench_refuses(options):
    status, text = run('bench', *options)
    assert status == 2 and text.startswith('bench: ')


def test_bench_measures(tiny, tmp_path):
    drafter = tiny_model.drafter_file(str(tmp_path / 'drafter.gguf'))
    status, text, said = run_apart('bench', tiny[0], '--media', tiny[1], '--drafter', drafter, '--rounds', '1',
                                   '--depth', '100', '--json')
    assert status == 0, said
    assert 'a prompt of 8192 is not measured' in said  # longer than the model's context
    figures = json.loads(text)
    assert 'depth100_added_s' in figures and 'depth100_of_limit' in figures
    for key in ['prefill_tokens_per_s', 'prefill512_tokens_per_s', 'decode_tokens_per_s', 'decode_of_limit',
                'prefill_of_limit', 'bandwidth_bytes_per_s', 'int8_ops_per_s', 'batch4_of_one', 'verify4_of_one',
                'picture_of_prefill', 'sound_of_prefill', 'start_s', 'drafted_of_plain', 'batch8_of_one',
                'depth100_bytes_s', 'depth100_products_s', 'batch4_of_limit', 'batch8_of_limit', 'verify4_of_limit',
                'batch8_bytes_s', 'batch8_products_s']:
        assert figures[key] > 0, key


def test_bench_measures_only_what_is_wanted(tiny):
    status, text = run('bench', tiny[0], '--rounds', '2', '--only', 'verify', '--kv-type', 'q8', '--json')
    assert status == 0, text
    figures = json.loads(text)
    assert figures['verify4_of_one'] > 0 and 'decode_tokens_per_s' not in figures
    assert 'q8' in figures['numerics']


def test_bench_says_where_it_cannot_write(tmp_path):
    got = subprocess.run([MILLRACE, 'bench', '--scale', '0.125'], capture_output=True, text=True, timeout=60,
                         env={**os.environ, 'TMPDIR': str(tmp_path / 'missing')})
    assert got.returncode == 1 and 'missing' in got.stderr


def test_bench_says_why_it_cannot_write():
    status, text = run('bench', '--scale', '0.125', '--keep', '/dev/full')
    assert status == 1 and text == "bench: write '/dev/full': No space left on device\n"


def test_no_command():
    assert run()[0] == 2
    for words in (['fly'], ['help', 'fly']):
        status, text = run(*words)
        assert status == 2 and "'fly' is no command" in text


def test_help_and_version():
    status, text, said = run_apart('help')
    assert status == 0 and not said and text.startswith('millrace: ') and (status, text, said) == run_apart('--help')
    with open(os.path.join(ROOT, 'CMakeLists.txt'), encoding='utf-8') as f:
        version = re.search(r'project\(millrace VERSION ([0-9.]+) ', f.read())[1]
    assert run_apart('--version') == (0, f'millrace {version}\n', '')


@pytest.mark.parametrize('arguments', [['inspect', '--hash', DEMO], ['inspect', '--keys', '--tensors', DEMO], ['--version'],
                                       ['conform', os.path.join(GOLDEN, 'kernels.gguf')]])
def test_an_answer_that_cannot_be_written_fails(arguments):
    with open('/dev/full', 'wb') as full:
        got = subprocess.run([MILLRACE, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert got.returncode == 1 and got.stderr == 'millrace: the answer cannot be written: No space left on device\n'


def test_up_refuses_in_words(tiny, tmp_path):
    model, media = tiny
    other = tmp_path / 'other'
    other.mkdir()
    (tmp_path / 'much.yaml').write_text('stages: { infer: { kv_bytes: 1TiB } }\n')
    cases = [
        (['up'], 'no model'),
        (['up', '--model', '/nowhere.gguf'], 'not there'),
        (['up', '--model', media], 'this is a media file'),
        (['up', '--model', model, '--media', model], 'no media file'),
        (['up', '--model', model, '--context', '100000'], '8192'),
        # not said, the context is no more than the model has
        (['up', '--model', DEMO, '--manifest', '/nowhere', '--listen', f'127.0.0.1:{free_port()}'], '(context 2048)'),
        (['up', '--model', model, '--drafter', media], "'clip' is no drafter"),
        (['up', '--model', model, '--drafter', DRAFTER], 'not a pair'),
        (['up', '--model', model, str(tmp_path / 'much.yaml')], 'are free'),
        (['up', '--model', model, '--media', '/nowhere.gguf'], 'media file: '),
        (['up', '--model', model, '--drafter', '/nowhere.gguf'], 'drafter: '),
        # what no stage that runs here would look at is refused as well, by the name that was typed
        (['up', '--model', model, '--slots', '65'], "--slots '65': a number from 1 to 64"),
        (['up', '--model', model, '--context', '-5'], "--context '-5': a number from 16"),
        (['up', '--model', model, '--context', '0'], "--context '0'"),
        (['up', '--model', model, '--body', '0'], "--body '0'"),
        (['up', '--model', model, '--image-budget', '71'], "--image-budget '71': 70, 140"),
        (['up', '--model', model, '--image-budget', '210'], "--image-budget '210': 70, 140"),
        (['up', '--model', model, '--video-frames', '241'], "--video-frames '241'"),
        (['up', '--model', model, '--draft-tokens', '9'], "--draft-tokens '9'"),
        *[(['up', '--model', model, '--listen', at], f"listen '{at}': HOST:PORT is wanted")
          for at in ('8080', '127.0.0.1:0', '::1:8080', ':8080', '127.0.0.1:65536', '127.0.0.1:x')],
        (['up', str(tmp_path / 'missing.yaml')], 'missing.yaml'),
    ]
    for arguments, words in cases:
        status, text = run(*arguments)
        assert status != 0 and words in text, (arguments, status, text)


@pytest.mark.parametrize('options, words', [
    (['--seed', '1.5'], "seed '1.5': a whole number"), (['--seed', '1e30'], 'seed'), (['--seed', '9' * 30], 'seed'),
    (['--max-tokens', ''], 'max_tokens'), (['--temperature', 'hot'], "temperature 'hot': a number"), (['another'], 'one question'),
])
def test_ask_refuses(options, words):
    status, text = run('ask', 'hello', *options)
    assert status == 2 and words in text


def test_inspect_shows_parts(tiny):
    status, text = run('inspect', tiny[0], '--keys', '--tensors')
    assert status == 0
    for word in ('architecture gemma4', 'attention', 'q8_0', 'gemma4.block_count', 'blk.3.ffn_down.weight', 'largest context'):
        assert word in text, text
    assert run('inspect', __file__)[0] == 1


def test_a_pipe_is_no_model(tmp_path):
    """Nobody writes into it: whoever opened it to read would wait for ever."""
    os.mkfifo(tmp_path / 'model.gguf')
    status, text = run('inspect', str(tmp_path / 'model.gguf'))
    assert status == 1 and 'no regular file' in text


def test_inspect_says_what_a_drafter_is_for():
    status, text = run('inspect', DRAFTER)
    assert status == 0
    for words in ('drafts for a model of', 'width 64, vocabulary 512, window 16', '1 key heads of 32 in full layers',
                  'drafter projections'):
        assert words in text, text


def test_inspect_does_the_arithmetic_of_memory(tiny):
    """Spec model.md section 6.2 on the tiny model: one full layer, three sliding ones, 2 bytes a value."""
    t = tiny_model
    full = 2 * t.KV_FULL * t.HEAD_FULL * 2 * (t.LAYERS // t.PERIOD)
    sliding = 2 * t.KV_SLIDING * t.HEAD_SLIDING * 2 * (t.LAYERS - t.LAYERS // t.PERIOD)
    held = sliding * t.WINDOW, full * 8192
    text = ' '.join(run('inspect', tiny[0])[1].split())
    assert f'full layers {full} bytes a token sliding layers {sliding} bytes a token, of the last {t.WINDOW} ' in text
    assert f'context 8192 {held[0]} + {held[1]} = {sum(held)} bytes; in pages' in text


def test_doctor_names_what_is_wrong(tiny):
    status, text = run('doctor', '--model', tiny[1], '--listen', 'nonsense')
    assert status == 1 and 'WRONG' in text and 'HOST:PORT' in text
    assert run('doctor', 'nonsense')[0] == 2


# ---------------------------------------------------------------- conform
def folder_with(tmp_path, *names):
    os.makedirs(tmp_path / 'models', exist_ok=True)
    for name in names:
        shutil.copy(os.path.join(GOLDEN, name), tmp_path / name)
    return str(tmp_path)


def test_conform_passes_our_own_cases():
    status, text = run('conform', GOLDEN)
    assert status == 0, text
    assert text.splitlines()[-1].startswith(f'{text.count("ok   ")} passed, 0 failed')
    assert 'text-nano-q4_0' in text and 'kernels' in text


def test_conform_fails_on_a_wrong_number(tmp_path):
    folder = folder_with(tmp_path, 'text-nano-q4_0.gguf', 'models/nano-q4_0.gguf')
    assert run('conform', folder)[0] == 0
    path = tmp_path / 'text-nano-q4_0.gguf'
    raw = bytearray(path.read_bytes())
    raw[-4096:-4092] = b'\0\0\x80\x7e'                  # 8.5e37 in the last rows of the logits
    path.write_bytes(raw)
    status, text = run('conform', folder)
    assert status == 1 and 'logits differs' in text, text
    assert text.splitlines()[-1].startswith('0 passed, 1 failed, 0 skipped')


def test_conform_fails_on_what_it_cannot_check(tmp_path):
    empty = tmp_path / 'empty'
    empty.mkdir()
    assert run('conform', str(empty))[0] == 1
    assert run('conform', str(tmp_path / 'nowhere'))[0] == 1
    without = tmp_path / 'without'
    without.mkdir()
    status, text = run('conform', folder_with(without, 'text-nano-q4_0.gguf'))
    assert status == 1 and 'nano-q4_0.gguf' in text

    def golden(name, tensors):
        kv = [('general.architecture', tiny_model.STR, 'golden'), ('golden.case', tiny_model.STR, name),
              ('golden.tolerance', tiny_model.F32, 0.0)]
        tiny_model.write_gguf(str(tmp_path / f'{name}.gguf'), kv, tensors)
        return run('conform', str(tmp_path / f'{name}.gguf'))

    four = tiny_model.f32([1, 2, 3, 4])
    status, text = golden('strange', [('what.is.this', (4,), tiny_model.TYPE_F32, four)])
    assert status == 1 and 'unknown kind of case' in text
    raw = ('f32.bytes', (16,), 24, four)
    values = ('f32.values', (4,), tiny_model.TYPE_F32, four)
    assert golden('right', [raw, values])[0] == 0
    status, text = golden('more', [raw, values, ('extra', (4,), tiny_model.TYPE_F32, four)])
    assert status == 1 and "'extra' was not compared" in text
    assert run('conform', str(tmp_path / 'more.gguf'), '--skip', 'more')[0] == 0


def lines_of(folder, name):
    with open(os.path.join(folder, f'{name}.jsonl'), encoding='utf-8', newline='\n') as f:
        return f.read().rstrip('\n').split('\n')


def passed_lines(text):
    """{name of the file: lines that were compared} of the files that passed."""
    words = [line.split() for line in text.splitlines() if line.startswith('ok ') and ' lines ' in line]
    return {w[1]: int(w[w.index('lines') - 1]) for w in words}


def test_conform_reads_every_line_of_the_text_side():
    status, text = run('conform', TEXT)
    assert status == 0 and text.splitlines()[-1].startswith('5 passed, 0 failed, 0 skipped'), text
    assert passed_lines(text) == {name: len(lines_of(TEXT, name)) for name in LINES}


@pytest.mark.parametrize('options', [[], ['--fast', '--skip', 'wide,small-f32']])
def test_conform_passes_the_whole_set(options):
    if not os.path.isfile(os.path.join(ALL_GOLDEN, 'gemma-4-vocab.gguf')):
        pytest.skip(f'SKIP: {ALL_GOLDEN} is not there: the whole set of golden cases is not tried')
    status, text = run('conform', ALL_GOLDEN, *options)
    assert status == 0, text
    if '--fast' not in options:
        assert passed_lines(text) == {name: len(lines_of(ALL_GOLDEN, name)) for name in LINES}


def change_id(case):
    case['ids'][-1] += 1


def change_step(case):
    case['steps'].append('')


def change_calls(case):
    case['expect']['tool_calls'].append({'name': 'f', 'arguments': {}})


def change_refusal(case):
    case['prompt'] = None


@pytest.mark.parametrize('name, change, why', [
    ('tokenizer', change_id, 'ids differ'), ('tokenizer-special', change_id, 'ids differ'),
    ('chat', change_id, 'ids differ'), ('chat', change_refusal, 'was not refused'),
    ('detokenize', change_id, ' is '), ('detokenize', change_step, 'more steps than ids'),
    ('parse', change_calls, 'tool calls, expected'),
    ('parse', lambda case: case['ids'].append(1 << 20), 'id 1048576 is not in the vocabulary'),
    ('parse', lambda case: case['expect'].update(finish='never'), "expected 'never'"),
])
def test_conform_fails_on_a_changed_line(tmp_path, name, change, why):
    shutil.copy(os.path.join(TEXT, 'vocabulary.gguf'), tmp_path)
    lines = lines_of(TEXT, name)
    at = next(i for i in range(len(lines) - 1, -1, -1) if json.loads(lines[i]).get('ids'))
    case = json.loads(lines[at])
    change(case)
    lines[at] = json.dumps(case)
    (tmp_path / f'{name}.jsonl').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    status, text = run('conform', str(tmp_path))
    assert status == 1 and f'FAILED  {name} ' in text and f'line {at + 1}: ' in text and why in text, text
    assert text.splitlines()[-1].startswith('0 passed, 1 failed')
