"""Fits against scikit-learn's batch methods and plain formulas; SpLiCE against an independent solver."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as BatchKMeans
from sklearn.linear_model import Lasso
from small_dictionaries import BOTH
from tiny_clip import write_clip

from vlsae.dictionaries import ICA, NMF, PCA, KMeans, Splice, from_pretrained
from vlsae.dictionaries.fit import chunks, stream_means
from vlsae.dictionaries.nonnegative import nonnegative_weights
from vlsae.dictionaries.splice import frequent
from vlsae.models import CLIP

D = 8


class Rows:
    """Rows of both streams in batches of 50, vision one way and language shifted."""

    seed = 0

    def __init__(self, values: dict[str, torch.Tensor], sites: dict[str, str] | None = None) -> None:
        self.values, self.sites = values, sites or {}
        self.steps_per_epoch = len(next(iter(values.values()))) // 50

    def batch(self, step):
        first = step % self.steps_per_epoch * 50
        return {stream: x[first : first + 50] for stream, x in self.values.items()}


@pytest.fixture
def rows() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(D, D, generator=generator)
    sources = torch.rand(2, 400, D, generator=generator) - 0.5
    return {stream: sources[i] @ mixing + 3 * i for i, stream in enumerate(BOTH)}


def centred(rows):
    return np.concatenate([(x - x.mean(dim=0)).double().numpy() for x in rows.values()])


def test_chunks_hold_every_row_once_and_means_are_the_streams(rows):
    reader = Rows(rows)
    means = stream_means(reader)
    torch.testing.assert_close(means, torch.stack([x.double().mean(dim=0) for x in rows.values()]))
    parts = list(chunks(reader, 130, means))
    assert all(len(part) >= 130 for part in parts)
    np.testing.assert_allclose(np.sort(np.concatenate(parts), axis=0), np.sort(centred(rows), axis=0), atol=1e-5)


def test_pca_is_the_covariances_eigenvectors(rows):
    dictionary = PCA(D, 5, chunk=100).fit(Rows(rows))
    values, vectors = np.linalg.eigh(np.cov(centred(rows).T))
    best = vectors[:, np.argsort(-values)[:5]]
    # The space and the directions agree; signs are free.
    np.testing.assert_allclose(np.abs(dictionary.analysis.numpy() @ best), np.eye(5), atol=1e-4)
    for stream, x in rows.items():
        expected = (x - x.mean(dim=0)) @ torch.tensor(best @ best.T).float() + x.mean(dim=0)
        torch.testing.assert_close(dictionary.decode(dictionary.encode(x, stream), stream), expected, atol=1e-4, rtol=0)
    assert PCA(D, 5, 2).fit(Rows(rows)).encode(rows["vision"], "vision").offsets.diff().eq(2).all()
    with pytest.raises(ValueError, match="n_concepts"):
        PCA(D, D + 1)


def test_ica_finds_the_mixed_sources_and_gives_rows_back(rows):
    torch.manual_seed(0)
    dictionary = ICA(D).fit(Rows(rows))
    generator = torch.Generator().manual_seed(0)
    torch.randn(D, D, generator=generator)
    sources = torch.rand(2, 400, D, generator=generator) - 0.5
    found = dictionary.activations(rows["vision"], "vision")
    correlation = np.corrcoef(found.numpy().T, sources[0].numpy().T)[:D, D:]
    assert (np.abs(correlation).max(axis=1) > 0.95).all()
    for stream, x in rows.items():
        torch.testing.assert_close(dictionary.decode(dictionary.encode(x, stream), stream), x, atol=1e-3, rtol=0)


def test_kmeans_is_near_the_batch_method_and_codes_by_the_nearest(rows):
    torch.manual_seed(0)
    dictionary = KMeans(D, 6, epochs=10).fit(Rows(rows))
    x = torch.cat(list(rows.values()))
    distance = torch.cdist(x, dictionary.codes)
    batch = BatchKMeans(6, n_init=4, random_state=0).fit(x.numpy())
    assert distance.min(dim=1).values.square().sum() < 1.2 * batch.inertia_
    assert torch.equal(dictionary.encode(x, "vision").indices, distance.argmin(dim=1))
    with pytest.raises(ValueError, match="centres"):
        KMeans(D, 900).fit(Rows({"vision": rows["vision"]}))


@pytest.mark.parametrize("penalty", [0.05, 0.5])
def test_nonnegative_weights_solve_the_lasso(penalty):
    generator = torch.Generator().manual_seed(0)
    atoms = torch.nn.functional.normalize(torch.randn(30, 12, generator=generator), dim=1).double()
    z = torch.randn(6, 12, generator=generator).double()
    weights = nonnegative_weights(z, atoms, penalty)
    # scikit-learn's objective is ‖·‖²/(2 q) + α ‖w‖₁.
    solver = Lasso(alpha=penalty / 12, positive=True, fit_intercept=False, tol=1e-10, max_iter=100_000)
    expected = np.stack([solver.fit(atoms.numpy().T, one).coef_ for one in z.numpy()])
    assert (weights >= 0).all()

    def objective(w):
        return np.square(w @ atoms.numpy() - z.numpy()).sum(axis=1) + 2 * penalty * w.sum(axis=1)

    np.testing.assert_allclose(objective(weights.numpy()), objective(expected), rtol=1e-6)
    np.testing.assert_allclose(weights.numpy(), expected, atol=2e-3)


def test_nmf_reconstructs_better_with_more_atoms_and_meets_k(rows, tmp_path):
    errors = []
    for h in (2, 16):
        torch.manual_seed(0)
        dictionary = NMF(D, h, k=min(h, 4), epochs=4).fit(Rows(rows))
        assert (dictionary.atoms >= 0).all()
        x = rows["vision"]
        code = dictionary.encode(x, "vision")
        assert (code.values > 0).all()
        errors.append((dictionary.decode(code, "vision") - x).square().mean())
    assert errors[1] < 0.7 * errors[0]
    dictionary.save_pretrained(tmp_path)
    assert torch.equal(from_pretrained(tmp_path).encode(x, "vision").values, code.values)
    counts = [dictionary.encode(x[:256], s).offsets.diff().double().mean() for s, x in rows.items()]
    assert float(sum(counts)) / 2 == pytest.approx(4, rel=0.2)


def test_splice_finds_the_words_that_a_row_is_made_of(tmp_path):
    model = CLIP(checkpoint=f"path:{write_clip(tmp_path / 'clip')}")
    model.load()
    names = ["red", "blue", "circle", "square", "green", "star"]
    words = tmp_path / "words.txt"
    words.write_text("\n".join([*names, "red", ""]))
    rows = model.represent(model.prepare(None, names), ["language.embedding"])["language.embedding"].values
    unit = torch.nn.functional.normalize(rows, dim=1)
    width = rows.shape[1]
    texts = unit.repeat(20, 1)[:100]
    reader = Rows({"language": texts}, {"language": "language.embedding"})
    dictionary = Splice(width, 1, model=model, vocabulary=str(words), penalty=0.05).fit(reader)
    assert dictionary.names == names
    torch.testing.assert_close(dictionary.offset[1], texts.mean(dim=0), atol=1e-5, rtol=0)
    expected = torch.nn.functional.normalize(unit - texts.mean(dim=0), dim=1)
    torch.testing.assert_close(dictionary.atoms.data, expected, atol=1e-5, rtol=0)
    code = dictionary.encode(unit, "language").to_dense()
    assert torch.equal(code.argmax(dim=1), torch.arange(6))
    torch.testing.assert_close(dictionary.decode(code, "language").norm(dim=1), torch.ones(6))
    assert torch.equal(code, dictionary.encode(7 * unit, "language").to_dense()) or torch.allclose(
        code, dictionary.encode(7 * unit, "language").to_dense(), atol=1e-5
    )
    with pytest.raises(ValueError, match="joint embedding"):
        Splice(width, model=model).fit(Rows({"language": texts}, {"language": "language.3"}))
    with pytest.raises(ValueError, match="no word"):
        Splice(width, model=model).fit(reader)


def test_frequent_words_and_pairs():
    found = frequent(["A red circle", "a red square", "the red circle!", "one"], 2, 5)
    assert found == ["red", "a", "a red", "red circle"]
