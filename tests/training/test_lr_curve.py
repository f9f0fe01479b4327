"""What a range test says, from made-up curves."""

from __future__ import annotations

import numpy as np
import pytest

from sft_speech.training.lr_curve import read_curve, shown, smoothed

RATES = 10.0 ** np.linspace(-7, 0, 100)


def made(fall: float, at: float, rise: float, noise: float = 0.0) -> np.ndarray:
    """Return losses that fall from 3 by `fall` around the rate `at`, and rise steeply from `rise` on."""
    decades = np.log10(RATES)
    losses = 3 - fall / (1 + np.exp(-6 * (decades - np.log10(at)))) + 10 * np.maximum(0, decades - np.log10(rise)) ** 2
    return losses + np.random.default_rng(0).normal(0, noise, 100)


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_the_range_ends_where_the_loss_is_lowest(noise):
    curve = read_curve(RATES, made(2.0, at=2e-4, rise=2.5e-3, noise=noise))
    assert curve.fastest == pytest.approx(2e-4, rel=0.35)
    assert curve.rises == pytest.approx(3.5e-3, rel=0.35)
    assert curve.high == pytest.approx(2.5e-3, rel=0.35)
    assert curve.low == curve.high / 10
    assert curve.suggested == pytest.approx(8e-4, rel=0.35)


def test_the_suggestion_is_said_with_its_reason():
    curve = read_curve(RATES, made(2.0, at=2e-4, rise=2.5e-3))
    assert curve.words() == (
        "the loss falls fastest at 2.1e-4, is lowest at 1.7e-3 and rises from 3.4e-3 on: use a learning rate of 1.7e-4 "
        "to 1.7e-3, the lower end if the model should forget little; in the middle is --learning_rate 5.5e-4"
    )


def test_an_easy_corpus_is_learned_at_low_rates_but_allows_higher_ones():
    """Its loss stays at its lowest for more than a decade."""
    curve = read_curve(RATES, made(2.9, at=4e-6, rise=2e-4))
    assert curve.fastest == pytest.approx(4e-6, rel=0.2)
    assert curve.high == pytest.approx(2e-4, rel=0.3)


def test_a_loss_that_does_not_rise_is_said_so():
    curve = read_curve(RATES[:80], made(2.0, at=2e-4, rise=1.0)[:80])
    assert (curve.rises, curve.high) == (None, RATES[79])
    assert "does not rise up to 3.9e-2, the highest rate that was tried" in curve.words()


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("rise", [1e-3, 10.0])
def test_a_flat_curve_has_no_suggestion(noise, rise):
    curve = read_curve(RATES, made(0.0, at=1e-4, rise=rise, noise=noise))
    assert (curve.low, curve.suggested, curve.high) == (None, None, None)
    assert curve.words().startswith("the curve is flat: the loss falls by at most ")
    assert "No rate is suggested" in curve.words()
    assert (curve.rises is not None) == (rise < 1)
    assert curve.to_dict()["flat"]


def test_the_picture_and_the_table_hold_the_curve():
    curve = read_curve(RATES, made(2.0, at=2e-4, rise=2.5e-3))
    assert curve.picture("title", "nats").startswith(b"\x89PNG")
    assert curve.table().splitlines()[:2] == ["learning_rate,loss,smoothed_loss", "1e-07,3,3"]


def test_rates_are_short_and_a_constant_stays_one():
    assert [shown(rate) for rate in (2e-4, 1.54e-3, 0.1, 3.0)] == ["2e-4", "1.5e-3", "1e-1", "3e0"]
    assert smoothed(np.full(5, 2.0)) == pytest.approx(np.full(5, 2.0))
