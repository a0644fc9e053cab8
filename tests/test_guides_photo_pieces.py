"""Of the pieces of a bank, the cheapest is chosen."""

from __future__ import annotations

import numpy as np
import pytest

from tambour.guides.photo.pieces import PieceBank, every_other

SEEN = 16  # px of a piece


def bank(contrast: np.ndarray, hole: np.ndarray | None = None) -> PieceBank:
    contrast = np.float32(contrast)
    origin = np.stack([np.arange(len(contrast))] * 3, 1)
    return PieceBank(origin, contrast, np.zeros_like(contrast) if hole is None else np.float32(hole), 1.0, 0.3)


def pieces(count: int) -> np.ndarray:
    """Contrast (count, SEEN) of unlike pieces."""
    return np.random.default_rng(0).normal(0, 1, (count, SEEN))


def chosen(bank: PieceBank, there: np.ndarray, surcharges=(), seed: int = 0) -> int:
    known = np.ones(SEEN, np.float32)
    return int(bank.choose(np.float32(there), known, known, surcharges, np.random.default_rng(seed))[0])


def test_a_piece_like_what_lies_there_is_among_the_cheapest() -> None:
    contrast = pieces(40)
    contrast[7:11] = contrast[7]  # as many as chance chooses among
    assert {chosen(bank(contrast), contrast[7], seed=seed) for seed in range(20)} <= {7, 8, 9, 10}


def test_holes_cost() -> None:
    contrast = np.repeat(pieces(1), 12, 0)
    hole = np.ones((12, SEEN))
    hole[2:6] = 0
    assert {chosen(bank(contrast, hole), contrast[0], seed=seed) for seed in range(20)} <= {2, 3, 4, 5}


def test_a_used_piece_has_its_price_until_uses_are_forgotten() -> None:
    all_alike = bank(np.repeat(pieces(1), 8, 0))
    for _ in range(8):
        chosen(all_alike, all_alike.contrast[0], (100 * all_alike.used,))
    assert all_alike.used.max() <= 2 and all_alike.used.sum() == 8
    all_alike.forget_uses()
    assert not all_alike.used.any()


def test_surcharges_decide_between_equals() -> None:
    equals = bank(np.repeat(pieces(1), 10, 0))
    price = np.float32([0, 1, 1, 0, 1, 0, 1, 1, 0, 1])
    assert {chosen(equals, equals.contrast[0], (price,), seed) for seed in range(20)} <= {0, 3, 5, 8}


def test_the_mean_power_is_that_of_stitches() -> None:
    contrast, hole = np.zeros((2, SEEN)), np.ones((2, SEEN))
    contrast[:, :4], hole[:, :4] = 2, 0
    assert bank(contrast, hole).mean_power == pytest.approx(4)
    assert every_other(np.arange(16).reshape(4, 4)).tolist() == [0, 2, 8, 10]
