"""scenes.py - pictures of a few coloured shapes, questions about them, and what an eye needs of them.

A picture is given to the model as the line gives it: resized to at most 70 tiles of 48 x 48 pixels, each tile with its
mean taken off and divided by its deviation.  The matrix that the tiles then meet is trained on means of 4 x 4 pixels
(432 per tile), which export.py writes out as a matrix over all 6912 values; so that is all that is kept here.
"""
import io
import math

import numpy as np
from PIL import Image, ImageDraw

from chat import Sample, system, thought

SIDE, CELL, BUDGET = 48, 4, 70
COLOURS = {'red': (222, 40, 40), 'green': (40, 165, 65), 'blue': (45, 80, 220), 'yellow': (240, 205, 30),
           'purple': (150, 50, 180), 'orange': (245, 130, 20)}
KINDS = ['circle', 'square', 'triangle', 'star']
SIZES = {'small': (0.085, 0.11), 'big': (0.155, 0.195)}
PLACES = [['top left', 'top', 'top right'], ['left', 'middle', 'right'],
          ['bottom left', 'bottom', 'bottom right']]
NUMBERS = ['no', 'one', 'two', 'three', 'four']


def target_size(height, width, budget=BUDGET):
    """Pixels (height, width) after the resize that Gemma 4 prescribes."""
    factor = math.sqrt(budget * SIDE * SIDE / (height * width))
    return int(factor * height / SIDE) * SIDE, int(factor * width / SIDE) * SIDE


class Thing:
    def __init__(self, kind, colour, size, x, y, radius, turn):
        self.kind, self.colour, self.size = kind, colour, size
        self.x, self.y, self.radius, self.turn = x, y, radius, turn      # in pixels of the canvas; radians

    def name(self, with_size=True):
        return (self.size + ' ' if with_size else '') + f'{self.colour} {self.kind}'

    def outline(self):
        if self.kind == 'star':
            spokes = [(math.pi * (i / 5 - 0.5), self.radius * (1.12 if i % 2 == 0 else 0.46)) for i in range(10)]
        elif self.kind == 'triangle':
            spokes = [(math.pi * (2 * i / 3 - 0.5), self.radius * 1.15) for i in range(3)]
        else:
            spokes = [(math.pi * (i / 2 + 0.25), self.radius * 1.2) for i in range(4)]
        return [(self.x + r * math.cos(a + self.turn), self.y + r * math.sin(a + self.turn)) for a, r in spokes]

    def draw(self, pen, fill):
        if self.kind == 'circle':
            r = self.radius
            pen.ellipse([self.x - r, self.y - r, self.x + r, self.y + r], fill=fill)
        else:
            pen.polygon(self.outline(), fill=fill)


def arrange(rng, height, width, n):
    """n things that neither touch nor share a column, from left to right; places clear of the borders of the thirds."""
    side = min(height, width)
    while True:
        things = []
        for _ in range(n * 30):
            size = str(rng.choice(list(SIZES)))
            radius = side * rng.uniform(*SIZES[size])
            x = rng.uniform(radius * 1.15, width - radius * 1.15)
            y = rng.uniform(radius * 1.15, height - radius * 1.15)
            clear = all(abs(v - b) > 0.05 for v in (x / width, y / height) for b in (1 / 3, 2 / 3))
            if clear and all(abs(x - t.x) > 0.12 * width
                             and math.hypot(x - t.x, y - t.y) > (radius + t.radius) * 1.2 for t in things):
                things.append(Thing(str(rng.choice(KINDS)), str(rng.choice(list(COLOURS))), size, x, y, radius,
                                    rng.uniform(-0.05, 0.05)))
                if len(things) == n:
                    return sorted(things, key=lambda t: t.x)


def background(rng):
    """Something light."""
    return np.clip(rng.uniform(215, 255) + rng.normal(0, 3, 3), 0, 255)


def paint(rng, things, height, width):
    """uint8 [height][width][3], and the number of the thing that covers each pixel (0: none)."""
    ground = tuple(int(c) for c in background(rng))
    picture, owner = Image.new('RGB', (width, height), ground), Image.new('L', (width, height), 0)
    pen, marker = ImageDraw.Draw(picture), ImageDraw.Draw(owner)
    for i, t in enumerate(things):
        shade = np.clip(np.array(COLOURS[t.colour]) + rng.normal(0, 8, 3), 0, 255)
        t.draw(pen, tuple(int(c) for c in shade))
        t.draw(marker, i + 1)
    return picture, owner


def random_size(rng, variety):
    """(height, width) of the file: a square, or with some variety other shapes."""
    long = int(rng.integers(300, 800))
    ratio = 1.0
    if rng.random() < variety:
        ratio = float(rng.choice([4 / 3, 3 / 2, 16 / 9, 1.15]))
    short = int(long / ratio)
    return (short, long) if rng.random() < 0.5 else (long, short)


def draw_scene(rng, n, variety=0.0, as_file=None):
    """A picture as it comes out of a file, its things, and the owner map at the size the model sees."""
    height, width = random_size(rng, variety)
    th, tw = target_size(height, width)
    if as_file is None:
        as_file = rng.random() < 0.3
    if not as_file:                                          # drawn at once at the size that the model sees
        height, width = th, tw
    things = arrange(rng, height, width, n)
    picture, owner = paint(rng, things, height, width)
    if as_file and rng.random() < 0.4:
        packed = io.BytesIO()
        picture.save(packed, 'JPEG', quality=int(rng.integers(60, 96)))
        picture = Image.open(packed).convert('RGB')
    return picture, things, owner.resize((tw, th), Image.NEAREST)


def tiles(picture):
    """PIL picture -> means of 4 x 4 pixels of each normalised tile, float32 [n][432], and places int [n][2] (x, y)."""
    th, tw = target_size(picture.height, picture.width)
    if (picture.height, picture.width) != (th, tw):
        picture = picture.resize((tw, th), Image.BICUBIC)
    pixels = np.asarray(picture, np.float32) / np.float32(255) - np.float32(0.5)
    gh, gw, m = th // SIDE, tw // SIDE, SIDE // CELL

    def cells(v):
        v = v.reshape(th // CELL, CELL, tw * 3).sum(1).reshape(th // CELL, tw // CELL, CELL, 3)
        v = (v[:, :, 0] + v[:, :, 1] + v[:, :, 2] + v[:, :, 3]) / CELL ** 2
        return v.reshape(gh, m, gw, m, 3).transpose(0, 2, 4, 1, 3).reshape(gh * gw, -1)

    small = cells(pixels)
    mean = small.mean(1)
    deviation = np.sqrt(np.maximum(cells(pixels * pixels).mean(1) - mean * mean, 0) + 1e-5)
    places = np.array([(x, y) for y in range(gh) for x in range(gw)])
    return (small - mean[:, None]) / deviation[:, None], places


IGNORED = -100


def labels_of(t, i, size):
    """Classes of thing number i for the extra heads: kind, colour, size, rank from the left, place."""
    return (1 + KINDS.index(t.kind), 1 + list(COLOURS).index(t.colour), 1 + list(SIZES).index(t.size), 1 + i,
            1 + sum(PLACES, []).index(place_of(t, *size)))


def hints(things, owner, size, number=1, way=0):
    """What each tile shows, for the training's extra heads: int [n][7] (kind, colour, size, rank, place; number of the
    picture in the prompt; which way the thing moves), 0: nothing."""
    a, m = np.asarray(owner)[CELL // 2::CELL, CELL // 2::CELL], SIDE // CELL
    gh, gw = a.shape[0] // m, a.shape[1] // m
    blocks = a.reshape(gh, m, gw, m).transpose(0, 2, 1, 3).reshape(gh * gw, -1)
    share = np.stack([(blocks == i + 1).mean(1) for i in range(len(things))], 1)
    best, most = share.argmax(1), share.max(1)
    labels = np.array([labels_of(t, i, size) for i, t in enumerate(things)])
    out = np.where((most > 0.15)[:, None], labels[best], 0)
    out[(most > 0.03) & (most <= 0.15)] = IGNORED
    seen = np.where(out[:, :1] > 0, way, out[:, :1])
    return np.concatenate([out, np.full_like(seen, number), seen], 1)


def cover(owner):
    """Which of the 6 x 6 parts of each tile are covered by a thing: float32 [n][36]."""
    a = np.asarray(owner)[4::8, 4::8] > 0
    gh, gw = a.shape[0] // 6, a.shape[1] // 6
    return a.reshape(gh, 6, gw, 6).transpose(0, 2, 1, 3).reshape(gh * gw, -1).astype(np.float32)


def medium(picture, things, owner, number=1, way=0, **more):
    values, places = tiles(picture)
    return dict(kind='image', values=values, places=places, cover=cover(owner),
                hints=hints(things, owner, (picture.height, picture.width), number, way), **more)


# ---------------------------------------------------------------- questions
def listing(names):
    names = ['a ' + n if n[0] not in 'aeiou' else 'an ' + n for n in names]
    text = names[0] if len(names) == 1 else ', '.join(names[:-1]) + ' and ' + names[-1]
    return text[0].upper() + text[1:] + '.'


def place_of(t, height, width):
    return PLACES[min(2, int(3 * t.y / height))][min(2, int(3 * t.x / width))]


def loosen(rng, question):
    """The same question as other people type it."""
    if rng.random() < 0.15:
        question = question[0].lower() + question[1:]
    if rng.random() < 0.15 and question[-1] in '?.':
        question = question[:-1]
    return question


def pick(rng, items):
    return items[int(rng.integers(len(items)))]


def plural(kind):
    return kind + 's'


def ask_what(rng, things, size):
    q = pick(rng, ['What is on this picture?', 'What is in this picture?', 'What do you see?',
                   'Describe the picture.', 'What is this?', 'What can you see in the picture?'])
    return q, listing([t.name() for t in things]), 'what', None


def ask_count(rng, things, size):
    r = rng.random()
    if r < 0.4:
        word, n = pick(rng, ['shapes', 'things']), len(things)
    elif r < 0.75:
        kind = pick(rng, [t.kind for t in things] + KINDS)
        word, n = plural(kind), sum(t.kind == kind for t in things)
    else:
        colour = pick(rng, [t.colour for t in things] + list(COLOURS))
        word, n = f'{colour} {pick(rng, ["shapes", "things"])}', sum(t.colour == colour for t in things)
    q = pick(rng, [f'How many {word} are there?', f'How many {word} do you see?',
                   f'How many {word} are on this picture?', f'Count the {word}.'])
    return q, str(n), 'count', (word, None, n)


def unique(rng, things):
    """A way to name one of the things that fits no other: (words, thing), or None."""
    ways = [(f'{t.colour} {t.kind}', t) for t in things
            if sum((u.colour, u.kind) == (t.colour, t.kind) for u in things) == 1]
    ways += [(t.kind, t) for t in things if sum(u.kind == t.kind for u in things) == 1]
    return pick(rng, ways) if ways else None


def ask_where(rng, things, size):
    found = unique(rng, things)
    if not found:
        return None
    q = pick(rng, [f'Where is the {found[0]}?', f'Where on the picture is the {found[0]}?',
                   f'Where do you see the {found[0]}?'])
    return q, place_of(found[1], *size), 'where', (*found, 1)


def ask_colour(rng, things, size):
    alone = [t for t in things if sum(u.kind == t.kind for u in things) == 1]
    if not alone:
        return None
    t = pick(rng, alone)
    q = pick(rng, [f'What colour is the {t.kind}?', f'What color is the {t.kind}?', f'Which colour has the {t.kind}?'])
    return q, t.colour, 'colour', (t.kind, t, 1)


def ask_size(rng, things, size):
    found = unique(rng, things)
    if not found:
        return None
    return f'Is the {found[0]} big or small?', found[1].size, 'size', (*found, 1)


def ask_there(rng, things, size):
    if rng.random() < 0.5:
        t = pick(rng, things)
        colour, kind = t.colour, t.kind
    elif rng.random() < 0.5:                                 # half right: the harder questions
        colour, kind = pick(rng, things).colour, pick(rng, KINDS)
    else:
        colour, kind = pick(rng, list(COLOURS)), pick(rng, things).kind
    same = [t for t in things if (t.colour, t.kind) == (colour, kind)]
    q = pick(rng, ['Is there {}?', 'Do you see {}?']).format(listing([f'{colour} {kind}'])[:-1].lower())
    return q, 'yes' if same else 'no', 'there', (kind, same[0] if len(same) == 1 else None, len(same))


QUESTIONS = [(ask_what, 0.04), (ask_count, 0.26), (ask_where, 0.30), (ask_colour, 0.12), (ask_size, 0.10),
             (ask_there, 0.18)]


def questions(rng, things, size, n, first=None):
    """n different (question, answer, kind, named): None or (last words of a name, the thing if it is one, how many)."""
    found = {}
    makers, weights = [q for q, _ in QUESTIONS], [w for _, w in QUESTIONS]
    for _ in range(n * 6):
        maker = first if first and not found else makers[rng.choice(len(makers), p=weights)]
        made = maker(rng, things, size)
        if made and made[0] not in found:
            found[made[0]] = made
        if len(found) == n:
            break
    return [(loosen(rng, q), *rest) for q, *rest in found.values()]


def sample(rng, n_things=None, variety=0.0, n_questions=7, thinking=False, as_file=None):
    """A picture and questions about it."""
    n = n_things or int(rng.integers(1, 5))
    picture, things, owner = draw_scene(rng, n, variety, as_file)
    size = picture.height, picture.width
    s = Sample('picture', '<bos>' + system(thinking=thinking) + '<|turn>user\n', [medium(picture, things, owner)])
    s.pictures = [picture]
    for q, a, kind, named in questions(rng, things, size, n_questions, ask_what) if n_questions else []:
        if thinking and kind != 'what':
            a = thought('I see ' + listing([t.name() for t in things])[:-1].lower() + '.') + a
        elif thinking:
            a = thought('From left to right.') + a
        if named:
            word, t, number = named
            known = labels_of(t, things.index(t), size) if t else (IGNORED,) * 5
            named = word, (*known, number, IGNORED)
        s.ask(q, a, thinking, kind, named=named)
    return s


# ---------------------------------------------------------------- two pictures
WHICH = {(True, False): 'the first', (False, True): 'the second', (True, True): 'both', (False, False): 'neither'}


def number_of(has):
    return list(WHICH).index(has) + 1


def ask_which(rng, scenes):
    """Which of two pictures has a shape of that colour and kind, or of that kind."""
    wanted = (True, False), (False, True), (True, True), (False, False)
    aim = wanted[rng.choice(4, p=[0.35, 0.35, 0.1, 0.2])]
    for _ in range(20):
        t = pick(rng, pick(rng, scenes))
        colour = t.colour if rng.random() < 0.8 else pick(rng, list(COLOURS))
        kind = t.kind if rng.random() < 0.8 else pick(rng, KINDS)
        any_colour = rng.random() < 0.25
        has = tuple(any(u.kind == kind and (any_colour or u.colour == colour) for u in things) for things in scenes)
        if has == aim:
            break
    name = listing([kind if any_colour else f'{colour} {kind}'])[:-1].lower()
    q = pick(rng, [f'Which picture has {name}?', f'Which one has {name}?', f'On which picture is {name}?'])
    return q, WHICH[has], (kind, number_of(has))


def ask_more(rng, scenes):
    a, b = len(scenes[0]), len(scenes[1])
    has = a > b, b > a
    return pick(rng, ['Which picture has more shapes?', 'Which one has more shapes?']), WHICH[has], ('shapes', number_of(has))


def ask_one(rng, scenes):
    which = int(rng.integers(2))
    q = pick(rng, ['What is on the {} picture?', 'Describe the {} picture.']).format(('first', 'second')[which])
    return q, listing([t.name() for t in scenes[which]]), (('first', 'second')[which], which + 1)


def pair_sample(rng, variety=0.0, n_questions=6, as_file=None, more=0.2):
    """Two pictures in one prompt, and questions about both; more: share of the question which has more shapes."""
    s, scenes = Sample('pair', '<bos><|turn>user\n'), []
    s.pictures = []
    for i in range(2):
        picture, things, owner = draw_scene(rng, int(rng.integers(1, 4)), variety, as_file)
        s.media.append(medium(picture, things, owner, i + 1))
        s.pictures.append(picture)
        scenes.append(things)
    asked = set()
    for i in range(n_questions):
        maker = (ask_which, ask_more, ask_one)[rng.choice(3, p=[0.8 - more, more, 0.2])]
        q, a, (word, which) = maker(rng, scenes)
        if q not in asked:
            asked.add(q)
            s.ask(loosen(rng, q), a, kind=maker.__name__[4:], named=(word, (IGNORED,) * 5 + (which, IGNORED)))
    return s


# ---------------------------------------------------------------- video
WAYS = {'left': (-1, 0), 'right': (1, 0), 'up': (0, -1), 'down': (0, 1), 'not at all': (0, 0)}
FRAMES_MAX = 3


def move(rng, way, height, width):
    """A thing, and the ways (x, y) that it goes from the first frame to the last, in pixels."""
    size = pick(rng, list(SIZES))
    radius = min(height, width) * rng.uniform(*SIZES[size])
    dx, dy = WAYS[way]
    at, go = [], []
    for d, length in ((dx, width), (dy, height)):
        low, high = radius * 1.15, length - radius * 1.15
        far = rng.uniform(0.35, 0.9) * (high - low) * d
        at.append(rng.uniform(low - min(far, 0), high - max(far, 0)))
        go.append(far + rng.uniform(-0.02, 0.02) * length * abs(dx + dy))    # hands shake
    x, y = (min(max(v, radius * 1.15), length - radius * 1.15) for v, length in zip(at, (width, height)))
    return Thing(pick(rng, KINDS), pick(rng, list(COLOURS)), size, x, y, radius, rng.uniform(-0.05, 0.05)), go


def film(rng, seconds, variety=0.0, as_file=None, rate=1):
    """Frames (picture, owner map), `rate` a second; the thing, which moves for so many seconds and rests for one; which
    way it moves."""
    height, width = random_size(rng, variety)
    th, tw = target_size(height, width)
    if not (rng.random() < 0.3 if as_file is None else as_file):
        height, width = th, tw
    way = pick(rng, list(WAYS))
    thing, (go_x, go_y) = move(rng, way, height, width)
    state, frames, (x, y) = rng.integers(1 << 32), [], (thing.x, thing.y)
    for i in range((seconds + 1) * rate):
        part = min(1.0, i / (seconds * rate))
        thing.x, thing.y = x + part * go_x, y + part * go_y
        picture, owner = paint(np.random.default_rng(state), [thing], height, width)
        frames.append((picture, owner.resize((tw, th), Image.NEAREST)))
    return frames, thing, way


def ask_way(rng, thing, way):
    q = pick(rng, ['Which way does it move?', f'Which way does the {thing.kind} move?', 'Which way is it going?',
                   f'Which way does the {thing.colour} {thing.kind} move?'])
    return q, way


def ask_moves(rng, thing, way):
    q = pick(rng, ['What happens in this video?', 'What do you see?', 'Describe the video.', 'What is on this video?'])
    text = listing([f'{thing.colour} {thing.kind}'])[:-1]
    return q, text + (f' moves {way}.' if any(WAYS[way]) else ' does not move.')


def video_sample(rng, variety=0.0, n_questions=3, as_file=None, rate=1, moves=0.3):
    """A short video of one thing, of which the model sees one frame a second, and questions about it."""
    s = Sample('video', '<bos><|turn>user\n')
    frames, thing, way = film(rng, int(rng.integers(1, FRAMES_MAX)), variety, as_file, rate)
    s.film, frames = [picture for picture, _ in frames], frames[::rate]
    for i, (picture, owner) in enumerate(frames):
        s.media.append(medium(picture, [thing], owner, i + 1, 1 + list(WAYS).index(way) if i else 0, slot='video',
                              before=f'{" " if i else ""}{i // 60:02d}:{i % 60:02d} '))
    size = picture.height, picture.width
    asked = set()
    for _ in range(n_questions):
        maker = ask_moves if rng.random() < moves else ask_way
        q, a = maker(rng, thing, way)
        if q not in asked:
            asked.add(q)
            named = (q.rstrip('?.'), labels_of(thing, 0, size) + (len(frames), 1 + list(WAYS).index(way)))
            s.ask(q, a, kind=maker.__name__[4:], named=named)
    return s
