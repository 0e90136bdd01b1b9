"""The methods, the choice between them, and the way back into the encoder's space."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from trelm.alignment import choice
from trelm.alignment.adversarial import GameSettings
from trelm.alignment.choice import AlignmentResult, Method, align
from trelm.alignment.criterion import random_orthogonal
from trelm.alignment.judging import MIN_SEEDS
from trelm.alignment.normalisation import Normalisation, normalise
from trelm.alignment.ridge import ridge
from trelm.errors import ConfigError

ROWS, WIDTH = 400, 12
GAME = GameSettings(epochs=1, samples=500, batch=16, discriminator_width=16, criterion_entries=200)
NORMALISATIONS: tuple[Normalisation, ...] = ("none", "unit", "centre-unit", "iterative", "whiten")


def pairs(count: int, start: int = 0) -> Tensor:
    return torch.arange(start, start + count).repeat(2, 1).T


def tables(seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """`X`, `Y` and the hidden `W` between them."""
    g = torch.Generator().manual_seed(seed)
    Y = torch.randn(ROWS, WIDTH, generator=g) * torch.linspace(1.5, 0.5, WIDTH) + 0.3
    W = random_orthogonal(WIDTH, g)
    return Y @ W, Y, W


def run(method: Method, **changes: Any) -> AlignmentResult:
    X, Y, _ = tables()
    values: dict[str, Any] = {
        "X": X,
        "Y": Y,
        "identical": pairs(150),
        "parallel": pairs(150, 100),
        "parallel_weights": torch.ones(150),
        "settings": GAME,
        "refinement_rounds": 1,
        "normalisation": "none",
        "seed": 1,
    } | changes
    return align(values.pop("X"), values.pop("Y"), method=method, **values)


@pytest.mark.parametrize("method", ["identical", "parallel"])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_seeds_give_the_hidden_map_back(method: Method, normalisation: Normalisation) -> None:
    _, Y, W = tables()
    result = run(method, normalisation=normalisation)
    torch.testing.assert_close(result.mapping, W, atol=1e-4, rtol=0)
    assert result.method == method
    assert result.criterion == pytest.approx(1, abs=1e-4)
    assert not result.candidates[method]["collapsed"]
    assert result.candidates[method]["seeds"] == (150 if method == "identical" else 300)
    torch.testing.assert_close(
        torch.nn.functional.cosine_similarity(result.mapped, Y).mean().item(), 1.0, atol=0.02, rtol=0
    )


def test_unnormalised_image_is_exactly_the_map_of_the_rows() -> None:
    X, _, _ = tables()
    result = run("identical")
    assert result.mapped.equal(X @ result.mapping.T)


def test_unit_image_has_the_mean_length_of_the_table() -> None:
    _, Y, _ = tables()
    mapped = run("identical", normalisation="unit").mapped
    torch.testing.assert_close(mapped.norm(dim=1), Y.norm(dim=1).mean().expand(ROWS), atol=1e-3, rtol=0)


def test_centred_image_lies_around_the_mean_of_the_table() -> None:
    _, Y, _ = tables()
    centred = run("identical", normalisation="centre-unit").mapped - Y.mean(dim=0)
    expected = (Y - Y.mean(dim=0)).norm(dim=1).mean()
    torch.testing.assert_close(centred.norm(dim=1), expected.expand(ROWS), atol=1e-3, rtol=0)


@pytest.mark.parametrize("how", NORMALISATIONS)
def test_none_is_the_identity_in_the_space_of_the_table(how: Normalisation) -> None:
    X, Y, _ = tables()
    result = run("none", normalisation=how)
    assert result.mapping.equal(torch.eye(WIDTH))
    target = normalise(Y, how)
    torch.testing.assert_close(result.mapped, target.back(normalise(X, how).rows))
    assert len(result.candidates["none"]["refinement"]) == 1


def test_auto_runs_what_the_data_allows_and_picks_by_the_criterion() -> None:
    # All links are wrong and heavy; all pairs spelled alike are right.
    wrong = torch.stack([torch.arange(300), torch.arange(300).roll(7)], dim=1)
    result = run("auto", parallel=wrong, parallel_weights=torch.full((300,), 5.0), refinement_rounds=0)
    assert list(result.candidates) == ["parallel", "identical"]  # no game: a map from pairs came through
    after = {name: account["criterion_after"] for name, account in result.candidates.items()}
    assert result.method == "identical" == max(after, key=lambda name: after[name])
    assert result.criterion == after["identical"]


def test_auto_prefers_parallel_among_equals() -> None:
    result = run("auto", parallel=pairs(150), refinement_rounds=0)
    after = {name: account["criterion_after"] for name, account in result.candidates.items()}
    assert after["parallel"] == after["identical"]
    assert result.method == "parallel"


def test_auto_leaves_out_what_has_too_few_seeds() -> None:
    few = {"identical": pairs(MIN_SEEDS - 1), "parallel": pairs(2), "parallel_weights": torch.ones(2)}
    result = run("auto", **few)
    assert list(result.candidates) == ["adversarial"]
    assert len(result.candidates["adversarial"]["game"]) == 1


def test_parallel_weights_count() -> None:
    _, _, W = tables()
    wrong = torch.stack([torch.arange(300), torch.arange(300).roll(7)], dim=1)
    light, heavy = (
        run("parallel", parallel=wrong, parallel_weights=torch.full((300,), weight), refinement_rounds=0).mapping
        for weight in (0.0, 50.0)
    )
    torch.testing.assert_close(light, W, atol=1e-4, rtol=0)
    assert (heavy - W).norm() > 1


def test_seeds_of_noise_are_called_collapsed() -> None:
    g = torch.Generator().manual_seed(3)
    noise = torch.randn(ROWS, WIDTH, generator=g)
    account = run("identical", X=noise, refinement_rounds=3).candidates["identical"]
    assert account["collapsed"]
    assert account["criterion_after"] == max(entry["criterion"] for entry in account["refinement"])


def test_progress_names_the_method_and_the_phase() -> None:
    seen: list[dict[str, Any]] = []
    run("adversarial", on_progress=seen.append)
    assert {(entry["method"], entry["phase"]) for entry in seen} == {
        ("adversarial", "game"),
        ("adversarial", "refinement"),
        ("adversarial", "choice"),
    }
    assert all("criterion" in entry for entry in seen)


def test_same_seed_same_map() -> None:
    first, second, other = (run("adversarial", seed=seed, refinement_rounds=0) for seed in (1, 1, 2))
    assert first.mapped.equal(second.mapped)
    assert not first.mapped.equal(other.mapped)


@pytest.mark.parametrize("method", ["identical", "parallel", "adversarial", "none"])
def test_a_narrower_table_is_mapped_into_a_wider_one(method: Method) -> None:
    _, Y, _ = tables()
    V = random_orthogonal(WIDTH, torch.Generator().manual_seed(2), 20)  # [20, WIDTH]: Y = X V^T
    result = run(method, X=Y, Y=Y @ V.T)
    assert result.mapping.shape == (20, WIDTH)
    torch.testing.assert_close(result.mapping.T @ result.mapping, torch.eye(WIDTH), atol=1e-5, rtol=0)
    assert {image.shape for image in result.images.values()} == {(ROWS, 20)}
    if method in ("identical", "parallel"):
        torch.testing.assert_close(result.mapping, V, atol=1e-4, rtol=0)
        torch.testing.assert_close(result.mapped, Y @ V.T, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", ["identical", "parallel", "adversarial", "none"])
def test_a_wider_table_is_mapped_into_a_narrower_one_at_its_length(method: Method) -> None:
    _, Y, _ = tables()
    V = random_orthogonal(WIDTH, torch.Generator().manual_seed(2), 20)
    result = run(method, X=Y @ V.T, Y=Y)
    assert result.mapping.shape == (WIDTH, 20)
    torch.testing.assert_close(result.mapping @ result.mapping.T, torch.eye(WIDTH), atol=1e-5, rtol=0)
    for image in result.images.values():
        assert float(image.norm(dim=1).mean()) == pytest.approx(float(Y.norm(dim=1).mean()), rel=1e-5)
    if method in ("identical", "parallel"):
        torch.testing.assert_close(result.mapped, Y, atol=1e-4, rtol=0)


def test_a_wider_table_loses_nothing_to_auto() -> None:
    _, Y, _ = tables()
    V = random_orthogonal(WIDTH, torch.Generator().manual_seed(2), 20)
    assert run("auto", X=Y @ V.T, Y=Y, normalisation="centre-unit").method == "parallel"


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        ("identical", {"identical": pairs(3)}, "'identical' needs at least 100 entries spelled alike, found 3; give"),
        (
            "parallel",
            {"parallel": pairs(4), "parallel_weights": torch.ones(4)},
            "'parallel' needs at least 100 word-alignment links, found 4; give more text or set",
        ),
    ],
)
def test_too_few_seeds_for_the_method_asked_for(method: Method, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run(method, **changes)


def wide_tables() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(5)
    Y = torch.randn(1500, WIDTH, generator=g) * torch.linspace(1.5, 0.5, WIDTH)
    return Y @ random_orthogonal(WIDTH, g), Y


def test_held_out_links_choose_the_map_that_finds_them() -> None:
    X, Y = wide_tables()
    false_friends = torch.stack([torch.arange(200), torch.arange(200).flip(0) + 300], dim=1)
    result = align(
        X,
        Y,
        method="auto",
        identical=false_friends,
        parallel=pairs(1000, 200),
        parallel_weights=torch.full((1000,), 5.0),
        settings=GAME,
        refinement_rounds=0,
        normalisation="none",
        seed=1,
    )
    assert result.method == "parallel"
    found = {name: account["links_found"] for name, account in result.candidates.items()}
    assert found["parallel"] > 0.5 > found["identical"]
    # a fifth of the links judges, so the map was made from the false friends and about four fifths of the links
    assert 200 + 750 < result.candidates["parallel"]["seeds"] < 200 + 850


def test_few_links_judge_nothing_and_all_of_them_are_used() -> None:
    result = run("auto")
    assert {account["links_found"] for account in result.candidates.values()} == {None}
    assert result.candidates["parallel"]["seeds"] == 300


def test_rows_that_are_spelled_alike_judge_nothing() -> None:
    X, Y = wide_tables()
    result = align(
        X,
        Y,
        method="auto",
        identical=pairs(1200),
        parallel=pairs(1200),
        parallel_weights=torch.ones(1200),
        settings=GAME,
        refinement_rounds=0,
        normalisation="none",
        seed=1,
    )
    assert {account["links_found"] for account in result.candidates.values()} == {None}
    assert result.candidates["parallel"]["seeds"] == 2400


def test_a_refinement_that_loses_links_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    X, Y = wide_tables()
    spoiled = random_orthogonal(WIDTH, torch.Generator().manual_seed(9))
    history = [{"round": 0, "criterion": 0.2, "dictionary": 0}, {"round": 1, "criterion": 0.9, "dictionary": 5}]
    monkeypatch.setattr(choice, "refine", lambda X, Y, W, **_: (spoiled, history))
    options: dict[str, Any] = {
        "method": "parallel",
        "identical": pairs(0),
        "settings": GAME,
        "refinement_rounds": 1,
        "normalisation": "none",
        "seed": 1,
    }
    result = align(X, Y, parallel=pairs(1000), parallel_weights=torch.ones(1000), **options)
    account = result.candidates["parallel"]
    assert not account["refinement_kept"]
    assert account["links_found"] == account["links_found_before"] > 0.9 > account["links_found_after"]
    assert result.criterion == account["criterion"] == 0.2
    torch.testing.assert_close(X @ result.mapping.T, Y, atol=1e-4, rtol=0)
    without_judges = align(X, Y, parallel=pairs(150), parallel_weights=torch.ones(150), **options)
    assert without_judges.candidates["parallel"]["refinement_kept"]
    torch.testing.assert_close(without_judges.mapping, spoiled)


def test_every_map_has_its_image_and_so_has_none() -> None:
    X, _, _ = tables()
    result = run("auto")
    assert set(result.images) == {"parallel", "identical", "none"}
    torch.testing.assert_close(result.images["none"], X)
    torch.testing.assert_close(result.images[result.method], result.mapped)


def fake_null(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """As if random rotations reached this criterion."""
    monkeypatch.setattr(choice, "null_criterion", lambda *_, **__: value)


def test_a_collapsed_map_is_not_chosen_beside_one_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    # The right map has the criterion 1, the wrong one less; as if it were the right one that had collapsed.
    monkeypatch.setattr(choice, "beats_null", lambda criterion, null: criterion < 0.9)
    wrong = torch.stack([torch.arange(300), torch.arange(300).roll(7)], dim=1)
    result = run("auto", parallel=wrong, parallel_weights=torch.full((300,), 5.0), refinement_rounds=0)
    right, other = result.candidates["identical"], result.candidates["parallel"]
    assert (right["collapsed"], other["collapsed"]) == (True, False)
    assert right["criterion"] > other["criterion"]
    assert result.method == "parallel"


def test_held_out_links_speak_against_a_collapse(monkeypatch: pytest.MonkeyPatch) -> None:
    X, Y = wide_tables()
    fake_null(monkeypatch, 1.0)  # the criterion says that everything collapsed
    options: dict[str, Any] = {"settings": GAME, "refinement_rounds": 0, "normalisation": "none", "seed": 1}
    result = align(
        X,
        Y,
        method="auto",
        identical=torch.stack([torch.arange(200), torch.arange(200).flip(0) + 300], dim=1),
        parallel=pairs(1000, 200),
        parallel_weights=torch.full((1000,), 5.0),
        **options,
    )
    assert not result.candidates["parallel"]["collapsed"]
    assert result.method == "parallel"
    assert "adversarial" not in result.candidates


def test_the_reason_names_every_method_and_what_it_found() -> None:
    told: list[dict[str, Any]] = []
    result = run("auto", on_progress=told.append)
    criteria = {name: f"{account['criterion']:.3f}" for name, account in result.candidates.items()}
    start = f"{result.method}: criterion {criteria[result.method]} without labels (random maps 0."
    assert result.reason.startswith(start)
    assert f"identical {criteria['identical']}" in result.reason
    assert told[-1]["phase"] == "choice"
    assert told[-1]["note"] == result.reason


def test_games_are_played_only_where_nothing_else_came_through() -> None:
    assert "adversarial" not in run("auto").candidates
    few: dict[str, Any] = {"identical": pairs(2), "parallel": pairs(2), "parallel_weights": torch.ones(2)}
    told: list[dict[str, Any]] = []
    result = run("auto", **few, restarts=1, on_progress=told.append)
    games = result.candidates["adversarial"]["games"]
    assert [game["collapsed"] for game in games] == [True, True]
    assert games[0]["seed"] == 1 != games[1]["seed"]
    assert "(collapsed, 2 games); by the criterion no map that was learned is better than a random one" in result.reason
    assert [event["note"] for event in told if event["phase"] == "game" and "note" in event][-1].endswith(
        "all 2 games collapsed"
    )


def test_ridge_finds_the_map_that_no_rotation_is_at_the_length_of_the_table() -> None:
    X, Y = wide_tables()
    stretched = Y * torch.linspace(0.2, 3, WIDTH)
    options: dict[str, Any] = {
        "parallel": pairs(0),
        "parallel_weights": torch.ones(0),
        "settings": GAME,
        "refinement_rounds": 1,
        "normalisation": "none",
        "seed": 1,
    }
    linear, orthogonal = (
        align(X, stretched, method="identical", identical=pairs(600), map_kind=kind, **options)
        for kind in ("ridge", "orthogonal")
    )
    cosines = [
        float(torch.nn.functional.cosine_similarity(one.mapped, stretched).mean()) for one in (linear, orthogonal)
    ]
    assert cosines[0] > 0.99 > cosines[1]
    assert float(linear.mapped.norm(dim=1).mean()) == pytest.approx(float(stretched.norm(dim=1).mean()), rel=1e-5)


def test_ridge_without_refinement_is_the_closed_form() -> None:
    X, Y, _ = tables()
    result = run("identical", map_kind="ridge", refinement_rounds=0)
    torch.testing.assert_close(result.mapping, ridge(X[:150], Y[:150]))


def test_links_are_pruned_where_asked() -> None:
    _, _, W = tables()
    wrong = torch.stack([torch.arange(300), torch.arange(300).roll(7)], dim=1)
    both = torch.cat([pairs(300), wrong])
    weights = torch.cat([torch.full((300,), 2.0), torch.full((300,), 1.9)])
    kept, all_of_them = (
        run("parallel", parallel=both, parallel_weights=weights, identical=pairs(0), prune_links=prune,
            refinement_rounds=0)
        for prune in (True, False)
    )  # fmt: skip
    torch.testing.assert_close(kept.mapping, W, atol=1e-4, rtol=0)
    assert (all_of_them.mapping - W).norm() > 1e-2
    assert kept.candidates["parallel"]["seeds"] < all_of_them.candidates["parallel"]["seeds"]


def test_too_few_links_after_pruning_are_too_few() -> None:
    star = torch.stack([torch.zeros(200, dtype=torch.int64), torch.arange(200)], dim=1)
    weights = torch.linspace(1, 2, 200)
    with pytest.raises(ConfigError, match="'parallel' needs at least 100 word-alignment links, found 1; give more"):
        run("parallel", parallel=star, parallel_weights=weights, prune_links=True)
