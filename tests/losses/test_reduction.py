import torch

from twotower.losses.reduction import mean_shares, weighted_mean


def test_shares_sum_to_one_and_carry_no_gradient():
    weight = torch.tensor([1.0, 3.0], requires_grad=True)
    shares = mean_shares(torch.zeros(2), weight)
    assert shares.tolist() == [0.25, 0.75]
    assert not shares.requires_grad


def test_scale_of_weights_is_irrelevant():
    values = torch.tensor([1.0, 2.0, 6.0])
    assert weighted_mean(values, torch.full((3,), 5)) == weighted_mean(values) == 3
