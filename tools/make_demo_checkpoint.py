"""Train the demo's network and write its two files: `python -m tools.make_demo_checkpoint`.

torchvision's MobileNetV2 at width 0.25 is trained on 1,437 of scikit-learn's handwritten digits;
the other 360 are stored with its logits. One seed determines the split, the initial weights, the
order and the augmentation, so a second run on the same machine writes the same bytes; another
processor rounds differently, and the differences grow during training. The settings below were
chosen on digits split off the training set; the held-out ones were evaluated only at the end.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from flaxblocks.demo import digits
from flaxblocks.parity.oracle import import_torchvision

SEED = 0
EPOCHS = 100
BATCH_SIZE = 64
ROTATION = 15.0  # degrees in either direction
SHIFT = 3.0  # pixels, of 32, in either direction
MIN_ACCURACY = 0.98


def to_tensor(images: np.ndarray) -> Tensor:
    """Convert raw scans to the network's input, NCHW."""
    return torch.from_numpy(digits.digits_to_images(images)).permute(0, 3, 1, 2).contiguous()


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate and shift each image of `x` slightly at random, with blank paper at the edges."""
    angle, dx, dy = (torch.rand(3, len(x), generator=generator) * 2 - 1).unbind()
    angle = torch.deg2rad(angle * ROTATION)
    reach = 2 * SHIFT / digits.SIZE  # the grid is 2 wide
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.stack([cos, -sin, dx * reach, sin, cos, dy * reach], dim=1).reshape(-1, 2, 3)
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    blank = -digits.MEAN / digits.STD
    return functional.grid_sample(x - blank, grid, align_corners=False) + blank


def train(model: nn.Module, x: Tensor, labels: Tensor, epochs: int) -> None:
    """Train with AdamW and a one-cycle schedule; leaves `model` in evaluation mode."""
    generator = torch.Generator().manual_seed(SEED)
    steps = len(x) // BATCH_SIZE  # the remainder is left out, different digits each epoch
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=epochs * steps)
    model.train()
    for epoch in range(epochs):
        order, losses = torch.randperm(len(x), generator=generator), []
        for batch in order[: steps * BATCH_SIZE].split(BATCH_SIZE):
            logits = model(augment(x[batch], generator))
            loss = functional.cross_entropy(logits, labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}/{epochs}: training loss {np.mean(losses):.4f}", flush=True)
    model.eval()


def main() -> None:
    """Train, check the held-out accuracy, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(digits.__file__).parent, help="folder")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()

    torch.set_num_threads(1)  # reproducible; so small a network gains nothing from two
    torch.use_deterministic_algorithms(True)
    import_torchvision()
    from torchvision.models import mobilenet_v2

    train_images, held_out_images, train_labels, held_out_labels = digits.split_digits()
    torch.manual_seed(SEED)
    model = mobilenet_v2(width_mult=0.25, num_classes=10)
    start = time.perf_counter()
    train(model, to_tensor(train_images), torch.from_numpy(train_labels).long(), arguments.epochs)
    x = to_tensor(held_out_images)
    with torch.no_grad():
        logits = model(x).numpy()
    accuracy = float(np.mean(logits.argmax(1) == held_out_labels))
    print(f"held-out accuracy {accuracy:.4f} after {time.perf_counter() - start:.0f} s")
    if accuracy < MIN_ACCURACY:
        raise SystemExit(
            f"held-out accuracy {accuracy:.4f} is below {MIN_ACCURACY}: nothing written"
        )

    torch.save(model.state_dict(), arguments.out / digits.CHECKPOINT)
    with torch.no_grad():
        logits64 = model.double()(x.double()).numpy()
    np.savez_compressed(
        arguments.out / digits.DATA,
        images=held_out_images,
        labels=held_out_labels,
        logits=logits,
        logits64=logits64,
        torch_version=np.array(str(torch.__version__)),
    )


if __name__ == "__main__":
    main()
