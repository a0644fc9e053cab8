"""The workflows with their options given by name, as tests call them."""

from __future__ import annotations

from tambour.workflows import apply as _apply
from tambour.workflows import imagine as _imagine
from tambour.workflows import learn as _learn
from tambour.workflows.options import ApplyOptions, ImagineOptions, LearnOptions, make_options


def apply(style, designs, **settings):
    return _apply.apply(style, designs, make_options(ApplyOptions, None, settings))


def imagine(style, prompt, **settings):
    return _imagine.imagine(style, prompt, make_options(ImagineOptions, None, settings))


def learn(photo, *, work, overwrite=False, **settings):
    return _learn.learn(photo, make_options(LearnOptions, None, settings), work=work, overwrite=overwrite)


def analyse(photo, **settings):
    return _learn.analyse(photo, make_options(LearnOptions, None, settings))
