"""Graph blocks against slow, obvious versions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cuemark.nn.graph import CosineGraph, GCNeXt, Links, gather, nearest, related


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [1, 3, 9])
def test_nearest_are_the_closest_with_itself_first(k):
    x = random(2, 5, 9)
    found = nearest(x, k)
    for b in range(2):
        for t in range(9):
            distance = [float((x[b, :, t] - x[b, :, u]).square().sum()) for u in range(9)]
            assert found[b, t].tolist() == sorted(range(9), key=distance.__getitem__)[:k]


def test_a_short_sequence_links_to_itself_again():
    assert nearest(random(1, 4, 2), 4).tolist() == [[[0, 1, 0, 0], [1, 0, 1, 1]]]


def test_itself_comes_first_among_equals():
    assert nearest(torch.ones(1, 4, 6), 3)[0, :, 0].tolist() == list(range(6))


def test_padding_is_never_linked_to():
    x = random(3, 4, 8)
    mask = torch.zeros(3, 8, dtype=torch.bool)
    mask[0, :5], mask[1, :2], mask[2, :8] = True, True, True
    x = x * mask[:, None]
    found = nearest(x, 3, mask)
    for b, length in enumerate((5, 2, 8)):
        assert (found[b, :length] < length).all()
        assert torch.equal(found[b, :length], nearest(x[b:b + 1, :, :length], 3)[0])


def test_gather_takes_columns():
    x, index = random(2, 3, 5), torch.tensor([[[0, 4], [1, 1]], [[2, 3], [3, 0]]])
    found = gather(x, index)
    assert found.shape == (2, 3, 2, 2)
    for b in range(2):
        for i in range(2):
            for j in range(2):
                assert torch.equal(found[b, :, i, j], x[b, :, index[b, i, j]])


def test_a_block_is_its_formula():
    torch.manual_seed(0)
    block = GCNeXt(8, width=12, groups=3, neighbours=3)
    x = random(2, 8, 7, seed=1)
    out, index = block(x)
    p = {k: v.detach() for k, v in block.state_dict().items()}
    temporal = F.conv1d(x, p["temporal_in.weight"], p["temporal_in.bias"]).relu()
    temporal = F.conv1d(temporal, p["temporal.weight"], p["temporal.bias"], padding=1, groups=3).relu()
    temporal = F.conv1d(temporal, p["temporal_out.weight"], p["temporal_out.bias"])
    grouped = torch.block_diag(*p["semantic.weight"].flatten(1).split(4))
    for b in range(2):
        for t in range(7):
            edges = []
            for u in nearest(x, 3)[b, t].tolist():
                edge = torch.cat([x[b, :, u], x[b, :, t]])
                edge = (p["semantic_in.weight"].flatten(1) @ edge + p["semantic_in.bias"]).relu()
                edge = (grouped @ edge + p["semantic.bias"]).relu()
                edges.append(p["semantic_out.weight"].flatten(1) @ edge + p["semantic_out.bias"])
            expected = (temporal[b, :, t] + x[b, :, t] + torch.stack(edges).amax(dim=0)).relu()
            torch.testing.assert_close(out[b, :, t], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(index, nearest(x, 3))


def test_padding_does_not_change_a_block():
    torch.manual_seed(0)
    block = GCNeXt(8, width=8, groups=2, neighbours=3)
    x = random(1, 8, 6)
    mask = torch.arange(10)[None] < 6
    padded, _ = block(F.pad(x, (0, 4), value=3.0), mask)
    torch.testing.assert_close(padded[:, :, :6], block(x)[0], atol=1e-6, rtol=1e-6)
    assert not padded[:, :, 6:].any()


def test_neighbours_do_not_depend_on_autocast():
    x = random(1, 16, 40) * 0.01 + 5.0  # in bfloat16 all would be one point
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = nearest(x, 3)
    assert torch.equal(found, nearest(x, 3))


# ---------------------------------------------------------------------------------------------- graphs over spans


def naive_related(spans, real, at, contextual, surrounding, limit):
    """Whom one span of a list is linked to, by the description."""
    others = [i for i in range(len(spans)) if real[i] and i != at]
    middle = [(a + b) / 2 for a, b in spans]

    def overlap(i):
        a, b = max(spans[i][0], spans[at][0]), min(spans[i][1], spans[at][1])
        return max(b - a, 0) / (spans[i][1] - spans[i][0] + spans[at][1] - spans[at][0] - max(b - a, 0))

    def distance(i):
        return abs(middle[i] - middle[at]) / (max(spans[i][1], spans[at][1]) - min(spans[i][0], spans[at][0]))

    near = sorted((i for i in others if overlap(i) > limit), key=lambda i: (-round(overlap(i), 9), i))[:contextual]
    beside = sorted((i for i in others if overlap(i) == 0), key=lambda i: (round(distance(i), 9), i))[:surrounding]
    return [*((near or [at]) * contextual)[:contextual], *((beside or [at]) * surrounding)[:surrounding]]


@pytest.mark.parametrize("count", [1, 2, 5, 40])
@pytest.mark.parametrize("limit", [0.3, 0.7])
def test_related_is_its_description(count, limit):
    generator = torch.Generator().manual_seed(count)
    start = torch.randint(0, 30, (2, count), generator=generator).double()  # whole numbers: equals, touches
    spans = torch.stack([start, start + torch.randint(1, 20, (2, count), generator=generator)], dim=2)
    real = torch.rand(2, count, generator=generator) > 0.2
    at = torch.arange(count).flip(0).expand(2, count)
    found = related(spans, real, at, 4, 2, limit)
    assert found.shape == (2, count, 6)
    for row in range(2):
        for j, i in enumerate(at[row].tolist()):
            assert found[row, j].tolist() == naive_related(spans[row].tolist(), real[row].tolist(), i, 4, 2, limit)


def test_a_cosine_graph_is_two_multiplications_by_its_matrix():
    torch.manual_seed(0)
    graph, x = CosineGraph(6, 8), torch.randn(7, 6)
    x[3] = 0  # has no direction
    children = torch.randint(0, 7, (7, 4))
    matrix = torch.eye(7)
    for i in range(7):
        for j in children[i].tolist():
            matrix[i, j] += max(float(F.cosine_similarity(x[i], x[j], dim=0)), 0) / 4
    hidden = F.relu(matrix @ x @ graph.first.weight.T + graph.first.bias)
    expected = matrix @ hidden @ graph.second.weight.T + graph.second.bias
    nodes = torch.arange(7)
    found = graph(x, Links(nodes, children, torch.cat([nodes[:, None], children], dim=1)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert graph.first.weight.abs().max() <= 8**-0.5
    assert float(graph.first.weight.detach().std()) == pytest.approx(8**-0.5 / 3**0.5, rel=0.2)


def test_a_cosine_graph_drops_hidden_channels_in_training_alone():
    torch.manual_seed(0)
    graph, x, nodes = CosineGraph(6, 64, dropout=0.5), torch.randn(3, 6), torch.arange(3)
    links = Links(nodes, nodes[:, None], torch.stack([nodes, nodes], dim=1))
    assert not torch.equal(graph.train()(x, links), graph(x, links))
    assert torch.equal(graph.eval()(x, links), graph(x, links))
