import pytest
import torch
import torchvision.transforms.functional as tvf

from common.datasets import network_input


def test_the_network_is_given_values_of_0_to_1_and_what_was_read_stays_as_it_is():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, 3, 1, 1)
    found = network_input(images)
    assert found.dtype == torch.float32 and images[0, 2].flatten().tolist() == list(range(256))
    torch.testing.assert_close(found, tvf.convert_image_dtype(images), atol=1e-7, rtol=0)


@pytest.mark.parametrize(("brightness", "contrast"), [(1.2, 0.8), (0.8, 1.2), (1.2, 1.2), (0.8, 0.8), (1.0, 1.2)])
def test_brightness_and_contrast_of_a_grey_image_are_those_of_torchvision(brightness, contrast):
    grey = torch.randint(0, 256, (1, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = grey.expand(1, 3, 8, 8)
    wanted = tvf.adjust_contrast(tvf.adjust_brightness(images / 255, brightness), contrast)
    found = network_input(images, torch.tensor([[brightness, contrast]]))
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=0)  # torchvision's weights of grey sum to 0.9999


def test_brightness_and_contrast_are_as_worked_by_hand():
    # 51, 153, 255 are 0.2, 0.6, 1; times 1.2 they are 0.24, 0.72, 1.2, of which 1 is kept; their mean is 0.6533.
    images = torch.tensor([51, 153, 255], dtype=torch.uint8)[None, None, None].expand(1, 3, 1, 3)
    mean = (0.24 + 0.72 + 1) / 3
    found = network_input(images, torch.tensor([[1.2, 0.8]]))
    for channel in range(3):
        wanted = [mean + 0.8 * (value - mean) for value in (0.24, 0.72, 1.0)]
        assert found[0, channel, 0].tolist() == pytest.approx(wanted, abs=1e-5)
    stretched = network_input(images, torch.tensor([[1.0, 1.2]]))[0, 0, 0].tolist()
    assert stretched == pytest.approx([0.6 - 1.2 * 0.4, 0.6, 1.0], abs=1e-5)  # 1.08, of which 1 is kept


def test_contrast_stretches_about_one_mean_of_all_channels_of_the_image():
    images = torch.empty(1, 3, 1, 2, dtype=torch.uint8)
    images[0, :, 0] = torch.tensor([[51, 102], [102, 153], [153, 204]])  # 0.2 to 0.8; the mean is 0.5
    found = network_input(images, torch.tensor([[1.0, 1.2]]))[0, :, 0]
    wanted = [[0.5 - 0.36, 0.5 - 0.12], [0.5 - 0.12, 0.5 + 0.12], [0.5 + 0.12, 0.5 + 0.36]]
    torch.testing.assert_close(found, torch.tensor(wanted), atol=1e-5, rtol=0)


def test_the_contrast_of_an_image_does_not_depend_on_its_neighbours():
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[1] //= 4
    factors = torch.tensor([[1.0, 1.2], [0.9, 0.8], [1.2, 1.1]])
    alone = [network_input(images[i : i + 1], factors[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(network_input(images, factors), torch.cat(alone))


def test_neutral_brightness_and_contrast_change_nothing():
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert torch.allclose(network_input(images, torch.ones(2, 2)), network_input(images), atol=1e-5)


def test_brightness_and_contrast_act_on_each_image_by_itself():
    images = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    brighter = network_input(images, torch.tensor([[1.2, 1.0], [1.0, 1.0]]))
    assert (brighter[0] > brighter[1]).all() and torch.allclose(brighter[1], network_input(images)[1], atol=1e-5)


def test_red_green_and_blue_are_seen_as_without_further_bands_which_stay_as_they_are():
    images = torch.randint(0, 256, (2, 5, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    factors = torch.tensor([[1.2, 0.8], [0.8, 1.2]])
    found = network_input(images, factors)
    assert torch.equal(found[:, :3], network_input(images[:, :3], factors))
    assert torch.equal(found[:, 3:], network_input(images)[:, 3:])
