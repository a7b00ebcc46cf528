import pytest
import torch
import torchvision.transforms.functional as tvf

from common.datasets import network_input


def test_the_network_sees_red_green_and_blue_standardised_each_by_its_own_mean_and_deviation():
    images = torch.zeros(1, 3, 1, 3, dtype=torch.uint8)
    for channel in range(3):
        images[0, channel, 0, channel] = 255  # a red, a green and a blue pixel
    found = network_input(images)
    assert found.dtype == torch.float32 and images.sum() == 3 * 255  # what was given stays as it is
    bright = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    dark = [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    for channel in range(3):
        wanted = [bright[channel] if pixel == channel else dark[channel] for pixel in range(3)]
        assert found[0, channel, 0].tolist() == pytest.approx(wanted, abs=1e-5)


def plain(inputs):
    """Network input → the values between 0 and 1 it was made of."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return inputs * std[:, None, None] + mean[:, None, None]


def test_network_input_is_standardised_as_torchvision_does_it():
    images = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wanted = tvf.normalize(images / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(network_input(images), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("brightness", "contrast"), [(1.2, 0.8), (0.8, 1.2), (1.2, 1.2), (0.8, 0.8), (1.0, 1.2)])
def test_brightness_and_contrast_of_a_grey_image_are_those_of_torchvision(brightness, contrast):
    grey = torch.randint(0, 256, (1, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = grey.expand(1, 3, 8, 8)
    wanted = tvf.adjust_contrast(tvf.adjust_brightness(images / 255, brightness), contrast)
    found = plain(network_input(images, torch.tensor([[brightness, contrast]])))
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=0)  # torchvision's weights of grey sum to 0.9999


def test_brightness_and_contrast_are_as_worked_by_hand():
    # 51, 153, 255 are 0.2, 0.6, 1; times 1.2 they are 0.24, 0.72, 1.2, of which 1 is kept; their mean is 0.6533.
    images = torch.tensor([51, 153, 255], dtype=torch.uint8)[None, None, None].expand(1, 3, 1, 3)
    mean = (0.24 + 0.72 + 1) / 3
    found = plain(network_input(images, torch.tensor([[1.2, 0.8]])))
    for channel in range(3):
        wanted = [mean + 0.8 * (value - mean) for value in (0.24, 0.72, 1.0)]
        assert found[0, channel, 0].tolist() == pytest.approx(wanted, abs=1e-5)
    stretched = plain(network_input(images, torch.tensor([[1.0, 1.2]])))[0, 0, 0].tolist()
    assert stretched == pytest.approx([0.6 - 1.2 * 0.4, 0.6, 1.0], abs=1e-5)  # 1.08, of which 1 is kept


def test_contrast_stretches_about_one_mean_of_all_channels_of_the_image():
    images = torch.empty(1, 3, 1, 2, dtype=torch.uint8)
    images[0, :, 0] = torch.tensor([[51, 102], [102, 153], [153, 204]])  # 0.2 to 0.8; the mean is 0.5
    found = plain(network_input(images, torch.tensor([[1.0, 1.2]])))[0, :, 0]
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
