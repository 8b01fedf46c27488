"""Steps of our own are those of torch, and what they remember comes back."""

from __future__ import annotations

import copy

import torch
from torch import nn

from streamrec.engine.arrays.tensors import Adam, restore_tensors, tensors_of


def descend(module: nn.Module, optimizer: Adam | torch.optim.Adam, steps: range) -> None:
    for number in steps:
        optimizer.zero_grad()
        for at, parameter in enumerate(module.parameters()):
            if (number + at) % 3:  # some have no gradient now and then
                parameter.grad = torch.sin(torch.arange(parameter.numel()) * 1.7 + number).reshape(parameter.shape)
        optimizer.step()


def test_adam_steps_as_torch_does_to_the_bit() -> None:
    torch.manual_seed(3)
    ours = nn.Linear(7, 5)
    theirs = copy.deepcopy(ours)
    descend(ours, Adam(ours.parameters(), 0.01), range(40))
    descend(theirs, torch.optim.Adam(theirs.parameters(), lr=0.01), range(40))
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert one.detach().numpy().tobytes() == other.detach().numpy().tobytes()


def test_what_it_remembers_comes_back() -> None:
    torch.manual_seed(3)
    whole, cut = nn.Linear(7, 5), nn.Linear(7, 5)
    optimizer = Adam(whole.parameters(), 0.01)
    descend(whole, optimizer, range(10))
    restored = Adam(cut.parameters(), 0.01)
    restore_tensors(tensors_of(whole, optimizer), cut, restored)
    descend(whole, optimizer, range(10, 20))
    descend(cut, restored, range(10, 20))
    one, other = tensors_of(whole, optimizer), tensors_of(cut, restored)
    assert {name: array.tobytes() for name, array in one.items()} == {n: a.tobytes() for n, a in other.items()}
