"""talk.py - text: questions about itself, small arithmetic, copy and reverse, and calls of declared tools."""
from chat import Sample, call, response, system, thought
from scenes import loosen, pick

# Each row: ways to ask, the answer, and a short thought for when thinking is on.
FACTS = [
    (['Hello', 'Hello!', 'Hi', 'Hi!', 'Hey', 'Good morning', 'Good day', 'Hello there', 'hi there'],
     'Hello! Show me a picture, play me a sound, or ask me something.', 'A greeting.'),
    (['Who are you?', 'What are you?', 'Tell me about yourself.', 'What is your name?', "What's your name?",
      'Introduce yourself.', 'Which model are you?', 'Are you Gemma?', 'Are you Gemma 4?'],
     'I am the demo model of Millrace: tiny, with the architecture of Gemma 4, and trained on a CPU.',
     'They ask who I am.'),
    (['What can you do?', 'What do you know?', 'How can you help me?', 'Help', 'What are you able to do?',
      'What should I ask you?', 'Help me'],
     'I name shapes on pictures, write down keys, beeps and words that I hear, add small numbers and call tools.',
     'They ask what I can do.'),
    (["What can't you do?", 'What can you not do?', 'What are your limits?', 'Are you clever?', 'Are you smart?',
      'Are you intelligent?'],
     'Nearly everything else. I am a very small model, made to show that the line works.', 'They ask about limits.'),
    (['What is Millrace?', 'Tell me about Millrace.', 'What does Millrace do?', 'Explain Millrace.',
      'What is this project?'],
     'Millrace is a pipeline written in C that serves Gemma 4 on your own machine.', 'They ask about the project.'),
    (['How does Millrace work?', 'What are the stages of Millrace?', 'Which stages are there?',
      'What is in the pipeline?', 'How does the pipeline work?', 'What are the parts of Millrace?'],
     'Five processes in a line: gateway, ingest, encode, infer and format.', 'They ask about the stages.'),
    (['What does the gateway do?', 'What is the gateway?', 'What is the gateway for?'],
     'The gateway takes requests over HTTP and sends the answers back.', 'The gateway is the door.'),
    (['What does ingest do?', 'What is ingest?', 'What is ingest for?'],
     'Ingest turns media files into frames.', 'Ingest comes second.'),
    (['What does encode do?', 'What is encode?', 'What is encode for?'],
     'Encode turns text and frames into a prompt.', 'Encode comes third.'),
    (['What does infer do?', 'What is infer?', 'What is infer for?'],
     'Infer runs the model: prompt in, tokens out.', 'Infer comes fourth.'),
    (['What does format do?', 'What is format?', 'What is format for?'],
     'Format turns tokens into the answer.', 'Format comes last.'),
    (['How big are you?', 'How large are you?', 'How many parameters do you have?', 'What is your size?'],
     'I have about two million parameters. The real Gemma 4 12B has twelve billion.', 'They ask for my size.'),
    (['How were you trained?', 'Where were you trained?', 'Who trained you?', 'Who made you?', 'Who built you?'],
     'I was trained from nothing on one CPU core, on examples made by a program.', 'They ask where I come from.'),
    (['Can you see?', 'Can you see pictures?', 'Do you have eyes?', 'Can you look at a picture?'],
     'Yes. Show me a picture of coloured shapes.', 'They ask about seeing.'),
    (['Can you hear?', 'Can you hear sounds?', 'Do you have ears?', 'Can you listen?'],
     'Yes. Play me telephone keys, beeps or words.', 'They ask about hearing.'),
    (['Can you think?', 'Do you think?', 'Can you reason?'],
     'A little, when thinking is switched on.', 'They ask about thinking.'),
    (['Can you call tools?', 'Can you use tools?', 'Do you know tools?', 'Can you call a function?'],
     'Yes. Declare a tool and ask me to use it.', 'They ask about tools.'),
    (['How are you?', 'How do you do?', 'Are you well?', "How's it going?"], 'I am fine, thank you.', 'Small talk.'),
    (['Thanks', 'Thank you', 'Thank you!', 'Thanks!', 'Great, thanks'], 'You are welcome.', 'They say thanks.'),
    (['Goodbye', 'Bye', 'Bye!', 'See you', 'Good night'], 'Goodbye!', 'They leave.'),
    (['What is the license?', 'Which license do you have?', 'What licence does Millrace have?'],
     'Apache 2.0.', 'They ask about the licence.'),
    (['Which shapes do you know?', 'What shapes do you know?', 'Which shapes can you see?'],
     'Circle, square, triangle and star.', 'They ask about shapes.'),
    (['Which colours do you know?', 'What colors do you know?', 'Which colours can you see?'],
     'Red, green, blue, yellow, purple and orange.', 'They ask about colours.'),
    (['Tell me a joke.', 'Do you know a joke?', 'Say something funny.'],
     'A token walks into a bar. The bar is full, so it waits in the cache.', 'They want a joke.'),
    (['Ping', 'ping', 'Test', 'test', 'Are you there?'], 'I am here.', 'A test.'),
]
WORDS = ('apple bread river stone cloud table chair window garden street music letter paper bottle candle winter summer '
         'water fire horse tiger bird fish cat dog mouse house tree flower book lamp door road ship train plane moon '
         'sun star rain snow wind hill lake north south east west happy quiet quick slow old new warm cold little '
         'yes no up down left right stop go open close start end today tomorrow Monday Tuesday Wednesday Thursday '
         'Friday Saturday Sunday January March April May June July August October one two three four five six seven '
         'eight nine ten zero hello world').split()
# Their pieces hold the space before them (vocabulary.py), so copying them is something else.
OTHERS = ('red green blue yellow purple orange circle square triangle small big the a is are what how you me picture '
          'sound key tone I it on in and model').split()
CITIES = ('Oslo Paris Berlin London Rome Madrid Vienna Prague Dublin Lisbon Athens Warsaw Helsinki Stockholm Tokyo '
          'Kyoto Cairo Lima Boston Chicago Toronto Sydney Delhi Seoul Bern Hamburg Munich Milan Porto Riga').split()
NAMES = ('Anna Ben Clara David Emma Felix Greta Hugo Ida Jonas Kim Lena Max Nora Otto Paula Rosa Sam Tina Viktor '
         'Alice Bob Carol Dan Eve Frank').split()
ROOMS = ['kitchen', 'bedroom', 'bathroom', 'hall', 'garage', 'office', 'cellar', 'living room', 'garden', 'attic']


def made_up(rng, capital=False):
    """A word that nobody has seen."""
    word = ''.join(pick(rng, 'bcdfghjklmnprstvwz') + pick(rng, 'aeiou') + pick(rng, ['', '', '', 'n', 'r', 's', 'l'])
                   for _ in range(int(rng.integers(1, 4))))
    return word.capitalize() if capital else word


def random_word(rng):
    if rng.random() < 0.15:
        return pick(rng, OTHERS)
    r = rng.random()
    return pick(rng, WORDS) if r < 0.6 else made_up(rng, rng.random() < 0.3) if r < 0.85 else str(rng.integers(0, 100))


# ---------------------------------------------------------------- plain questions
def fact(rng):
    questions, answer, idea = pick(rng, FACTS)
    q = pick(rng, questions)
    if rng.random() < 0.12:
        q = q.lower()
    return (q[:-1] if rng.random() < 0.1 and q[-1] in '?.!' else q), answer, idea, 'fact'


def arithmetic(rng):
    r = rng.random()
    if r < 0.5:
        a, b = (int(v) for v in rng.integers(0, 11, 2))
        sign, words, result = '+', 'plus', a + b
    elif r < 0.8:
        a = int(rng.integers(0, 11))
        b = int(rng.integers(0, a + 1))
        sign, words, result = '-', 'minus', a - b
    else:
        a, b = (int(v) for v in rng.integers(0, 6, 2))
        sign, words, result = '*', 'times', a * b
    tight = rng.random() < 0.4
    term = f'{a}{sign}{b}' if tight else f'{a} {sign if rng.random() < 0.7 else words} {b}'
    q = pick(rng, ['What is {}?', '{}', '{}?', '{} =', 'How much is {}?', 'Calculate {}.', 'Compute {}'])
    return q.format(term), str(result), f'{a} {sign} {b} = {result}', 'arithmetic'


def copy(rng):
    text = ' '.join(random_word(rng) for _ in range(int(rng.integers(1, 6))))
    q = pick(rng, ['Repeat: {}', 'Say {}', 'Repeat after me: {}', 'Copy this: {}', 'Write {}', 'Echo: {}'])
    return q.format(text), text, 'I repeat it.', 'copy'


def reverse(rng):
    words = [random_word(rng) for _ in range(int(rng.integers(2, 6)))]
    q = pick(rng, ['Reverse: {}', 'Reverse the order: {}', 'Say this backwards: {}', 'Backwards: {}'])
    return q.format(' '.join(words)), ' '.join(words[::-1]), 'The last word comes first.', 'reverse'


def compare(rng):
    a, b = (int(v) for v in rng.choice(100, 2, replace=False))
    if rng.random() < 0.5:
        q = pick(rng, ['Which is bigger, {} or {}?', 'Which is larger, {} or {}?', 'What is more, {} or {}?'])
        return q.format(a, b), str(max(a, b)), f'{max(a, b)} is more than {min(a, b)}.', 'compare'
    q = pick(rng, ['Which is smaller, {} or {}?', 'What is less, {} or {}?'])
    return q.format(a, b), str(min(a, b)), f'{min(a, b)} is less than {max(a, b)}.', 'compare'


PLAIN = [(fact, 0.32), (arithmetic, 0.26), (copy, 0.18), (reverse, 0.16), (compare, 0.08)]


def plain(rng):
    makers, weights = [p for p, _ in PLAIN], [w for _, w in PLAIN]
    return makers[rng.choice(len(makers), p=weights)](rng)


SYSTEMS = ['You are a helpful assistant.', 'Be brief.', 'Answer in one sentence.', 'You are the demo of Millrace.',
           'You are a friendly assistant.', 'Answer shortly.']


def sample(rng, thinking=False, branches=6):
    """Some questions that share no more than the beginning."""
    text = pick(rng, SYSTEMS) if rng.random() < 0.15 else ''
    s = Sample('text', '<bos>' + system(text, thinking) + '<|turn>user\n')
    for _ in range(branches):
        earlier = [plain(rng)[:2] for _ in range(int(rng.random() < 0.12))]
        q, a, idea, kind = plain(rng)
        s.ask(q, thought(idea) + a if thinking else a, thinking, kind, earlier)
    return s


# ---------------------------------------------------------------- tools
def phrase(rng):
    return ' '.join(pick(rng, WORDS) for _ in range(int(rng.integers(1, 5))))


def any_value(rng, type_):
    """A value and how the user says it."""
    if type_ == 'INTEGER':
        v = int(rng.integers(0, pick(rng, [10, 100, 1000])))
        return v, str(v)
    if type_ == 'NUMBER':
        v = float(round(rng.uniform(0, 100), 1))
        return v, str(v)
    if type_ == 'BOOLEAN':
        v = bool(rng.random() < 0.5)
        return v, pick(rng, [['false', 'off', 'no'], ['true', 'on', 'yes']][v])
    v = pick(rng, [lambda: pick(rng, CITIES), lambda: pick(rng, NAMES), lambda: pick(rng, ROOMS),
                   lambda: phrase(rng), lambda: made_up(rng, rng.random() < 0.5)])()
    return v, v


def weather(rng):
    tool = dict(name='get_weather', description=pick(rng, ['Current weather', 'Get the weather', 'Weather in a city']),
                parameters={'city': dict(type='STRING', description=pick(rng, ['City name', 'City', '']))},
                required=['city'])
    with_unit = rng.random() < 0.3
    if with_unit:
        tool['parameters']['unit'] = dict(type='STRING', enum=['C', 'F'])

    def ask():
        city = pick(rng, CITIES) if rng.random() < 0.7 else made_up(rng, True)
        q = pick(rng, ['What is the weather in {}?', 'Weather in {}?', 'How is the weather in {}?',
                       "What's the weather like in {}?", 'Get the weather in {}.', 'Is it cold in {}?',
                       'How warm is it in {}?']).format(city)
        arguments = {'city': city}
        if with_unit and rng.random() < 0.4:
            unit = pick(rng, 'CF')
            q, arguments['unit'] = q[:-1] + f' in {unit}' + q[-1], unit
        return q, arguments
    return tool, ask


def light(rng):
    on_off = rng.random() < 0.5
    level = dict(type='BOOLEAN') if on_off else dict(type='INTEGER', description='Percent')
    tool = dict(name='set_light', description=pick(rng, ['Switch a light', 'Set a light', 'Light in a room']),
                parameters={'room': dict(type='STRING'), 'on' if on_off else 'level': level},
                required=['on', 'room'] if on_off else ['room', 'level'])

    def ask():
        room = pick(rng, ROOMS)
        if on_off:
            on = bool(rng.random() < 0.5)
            word = 'on' if on else 'off'
            return pick(rng, [f'Turn {word} the light in the {room}.', f'Switch {word} the {room} light.',
                              f'Light {word} in the {room}, please.', f'Turn the {room} light {word}.',
                              f'Switch the light in the {room} {word}.']), {'room': room, 'on': on}
        level = int(rng.integers(0, 101))
        return pick(rng, [f'Set the light in the {room} to {level}.', f'Dim the {room} light to {level} percent.',
                          f'{room.capitalize()} light to {level}%.']), {'room': room, 'level': level}
    return tool, ask


def timer(rng):
    tool = dict(name='set_timer', description=pick(rng, ['Start a timer', 'Set a timer']),
                parameters={'minutes': dict(type='INTEGER')}, required=['minutes'])

    def ask():
        n = int(rng.integers(1, 120))
        return pick(rng, [f'Set a timer for {n} minutes.', f'Start a timer of {n} minutes.', f'Timer {n} minutes',
                          f'Wake me in {n} minutes.']), {'minutes': n}
    return tool, ask


def message(rng):
    tool = dict(name=pick(rng, ['send_message', 'send_mail', 'send_text']), description='Send a message',
                parameters={'to': dict(type='STRING'), 'text': dict(type='STRING')}, required=['to', 'text'])

    def ask():
        to, text = pick(rng, NAMES) if rng.random() < 0.7 else made_up(rng, True), phrase(rng)
        return pick(rng, [f'Tell {to}: {text}', f'Send {to} the message: {text}', f'Write to {to}: {text}',
                          f'Send a message to {to}: {text}']), {'to': to, 'text': text}
    return tool, ask


def clock(rng):
    tool = dict(name=pick(rng, ['now', 'get_time', 'current_time']),
                description=pick(rng, ['Time of day', 'The current time']), parameters={}, required=[])
    return tool, lambda: (pick(rng, ['What time is it?', 'What is the time?', 'Tell me the time.', 'How late is it?']), {})


VERBS = 'get set open close start stop find show play send add remove read write check move lock book call count'.split()
NOUNS = ('door window lamp heater radio song film alarm note list file user order ticket price stock map route robot '
         'camera fan pump valve gate blind oven car train flight room table box item task event mail fleet page').split()
KEYS = ('name id city room level count size color mode text title date user value amount speed target place number '
        'item message unit state time from to x y').split()


def general(rng):
    """A tool with any name and any arguments, asked for by name or by its words."""
    named = rng.random() < 0.75
    verb, noun = (pick(rng, VERBS), pick(rng, NOUNS)) if named else (made_up(rng), made_up(rng))
    name = verb + '_' + noun if rng.random() < 0.85 else verb
    keys = [pick(rng, KEYS) if rng.random() < 0.8 else made_up(rng) for _ in range(int(rng.integers(0, 4)))]
    types = {k: pick(rng, ['STRING', 'STRING', 'INTEGER', 'INTEGER', 'NUMBER', 'BOOLEAN']) for k in keys}
    parameters = {}
    for k in types:
        parameters[k] = dict(type=types[k])
        if rng.random() < 0.3:
            parameters[k]['description'] = pick(rng, ['The ' + k, k.capitalize(), 'A ' + k])
        if types[k] == 'STRING' and rng.random() < 0.2:
            parameters[k]['enum'] = sorted({made_up(rng) if rng.random() < 0.3 else pick(rng, WORDS) for _ in range(3)})
    required = [k for k in types if rng.random() < 0.8]
    tool = dict(name=name, description=pick(rng, [f'{verb.capitalize()} the {noun}', f'{verb.capitalize()} a {noun}',
                                                  phrase(rng).capitalize()]), parameters=parameters, required=required)

    def ask():
        arguments, said = {}, []
        for k in types:
            if k in required or rng.random() < 0.5:
                enum = parameters[k].get('enum')
                v, words = (pick(rng, enum),) * 2 if enum else any_value(rng, types[k])
                arguments[k] = v
                said.append(f'{k} {words}')
        order = [said[i] for i in rng.permutation(len(said))]
        if not order:
            tail = ''
        elif rng.random() < 0.5:
            tail = ' with ' + (' and ' if len(order) < 3 or rng.random() < 0.5 else ', ').join(order)
        else:
            tail = pick(rng, [': ', ', ']) + ', '.join(order)
        heads = [f'Use {name}', f'Call {name}', f'Run {name}', f'{name}', f'Please call {name}']
        if named and name != verb:
            heads += [f'{verb.capitalize()} the {noun}', f'Please {verb} the {noun}', f'{verb.capitalize()} a {noun}']
        return pick(rng, heads) + tail + pick(rng, ['.', '.', '']), arguments
    return tool, ask


MAKERS = [(weather, 0.31), (light, 0.27), (timer, 0.13), (message, 0.17), (clock, 0.12)]


def some_tools(rng, n, others=0.48):
    """n tools with different names: (tool, ask) each; others: share of those that are none of MAKERS."""
    makers, weights = [m for m, _ in MAKERS], [w for _, w in MAKERS]
    found = {}
    while len(found) < n:
        made = (general if rng.random() < others else makers[rng.choice(len(makers), p=weights)])(rng)
        found.setdefault(made[0]['name'], made)
    return list(found.values())


def answer_of(rng):
    """What a tool says."""
    return pick(rng, [lambda: f'{rng.integers(-20, 40)} C', lambda: 'ok', lambda: 'done',
                      lambda: f'{rng.integers(0, 24):02d}:{rng.integers(0, 60):02d}', lambda: phrase(rng),
                      lambda: f'{{"{pick(rng, KEYS)}": {rng.integers(0, 100)}}}', lambda: str(rng.integers(0, 1000)),
                      lambda: f'{pick(rng, ["sunny", "rain", "snow", "cloudy", "wind"])}, {rng.integers(-20, 40)} C'])()


def tool_sample(rng, n_tools=None, thinking=False, branches=4, answered=0.35, others=0.48):
    """Declared tools and requests: most want a tool, some do not, some go on with what the tool said."""
    tools = some_tools(rng, n_tools or int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15])), others)
    text = pick(rng, SYSTEMS) if rng.random() < 0.1 else ''
    s = Sample('tools', '<bos>' + system(text, thinking, [t for t, _ in tools]) + '<|turn>user\n')
    for _ in range(branches):
        if rng.random() < 0.13:
            q, a, idea, _ = plain(rng)
            s.ask(q, thought(idea) + a if thinking else a, thinking, 'no tool')
            continue
        tool, ask = pick(rng, tools)
        q, arguments = ask()
        made = call(tool['name'], arguments)
        begin = thought(f'I call {tool["name"]}.') if thinking else ''
        s.ask(loosen(rng, q), '', thinking, 'call')
        kind, parts = s.branches.pop()
        parts[-1] = (begin + made + '<|tool_response>', True)
        if rng.random() < answered:
            said = answer_of(rng)
            parts.append((response(tool['name'], said)[len('<|tool_response>'):], False))
            if thinking:
                parts.append(('<|channel>thought\n', False))
                parts.append(('The tool answered.\n<channel|>', True))
            parts.append((f'{tool["name"]} says: {said}<turn|>', True))
        s.branches.append((kind, parts))
    return s
