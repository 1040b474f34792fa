import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))

import line as line_module  # noqa: E402
import tiny_model  # noqa: E402


@pytest.fixture(scope='session')
def model(tmp_path_factory):
    """Paths of the tiny text and media file."""
    return tiny_model.make(str(tmp_path_factory.mktemp('tiny-model')))


@pytest.fixture(scope='module')
def line(model, tmp_path_factory):
    """A running line, shared by the tests of a file."""
    started = line_module.Line(*model, str(tmp_path_factory.mktemp('line')))
    yield started
    started.stop()


@pytest.fixture
def own_line(model, tmp_path):
    """A function that starts a line with options and environment of its own."""
    started = []

    def start(*options, **environment):
        started.append(line_module.Line(*model, str(tmp_path), *options, **environment))
        return started[-1]

    yield start
    for one in started:
        one.stop()
