"""The classic CNN, in PyTorch. Read it beside `train/keras_cnn.py`: the same network, line by line.

python -m train.torch_cnn artifacts/torch_cnn/torch
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from contract.dataset import Split
from contract.torch_program import without_paths
from train.recipe import Progress, Recipe, Trained, accuracy, main


class ClassicCNN(nn.Module):
    """The network that is trained: pictures (N, C, H, W), float32, 0..1 -> log probabilities (N, classes)."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        height, width, channels = shape
        self.conv1 = nn.Conv2d(channels, 32, 3)
        self.conv2 = nn.Conv2d(32, 16, 3)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1 = nn.Linear(16 * (((height - 2) // 2 - 2) // 2) * (((width - 2) // 2 - 2) // 2), classes)

        for parameter in self.parameters():  # as Keras initialises; PyTorch's own initialisation learns slower here
            nn.init.xavier_uniform_(parameter) if parameter.ndim > 1 else nn.init.zeros_(parameter)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.pool(functional.relu(self.conv1(pictures)))
        x = self.pool(functional.relu(self.conv2(x)))
        return functional.log_softmax(self.fc1(x.flatten(1)), dim=1)


class Shipped(nn.Module):
    """The network that is shipped: pixels (N, H, W, C), float32, 0..255 -> probabilities (N, classes), as in Keras."""

    def __init__(self, net: ClassicCNN) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor) -> Tensor:
        log_probabilities: Tensor = self.net(pixels.permute(0, 3, 1, 2) / 255)
        return log_probabilities.exp()


def train(recipe: Recipe, training: Split, test: Split, folder: Path) -> Trained:
    """Train, and write the network's `state_dict.pt` and the shipped program `model.pt2` into `folder`."""
    torch.manual_seed(recipe.seed)
    # For batches this small a second thread gains little, and is ten times slower where another process uses its core.
    torch.set_num_threads(1)
    net = ClassicCNN(training.images.shape[1:], recipe.classes)
    count = len(training.images)
    # Keras's epsilon. Fused, a step is a single loop over all weights: an epoch takes an eighth less.
    optimizer = torch.optim.Adam(net.parameters(), recipe.learning_rate, eps=1e-7, fused=True)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps(count))
    pictures = torch.tensor(training.images).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(training.labels).long()

    progress = Progress(recipe, "torch_cnn")
    for epoch in progress.epochs():
        for batch in torch.from_numpy(recipe.order(epoch, count)).split(recipe.batch_size):
            loss = functional.nll_loss(net(pictures[batch] / 255), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()

    shipped = Shipped(net).eval()
    with torch.inference_mode():
        batches = torch.tensor(test.images).float().split(1000)
        answers = np.concatenate([shipped(batch).numpy() for batch in batches])
    torch.save(net.state_dict(), folder / "state_dict.pt")
    torch.export.save(without_paths(export(shipped, training.images.shape[1:])), folder / "model.pt2")
    return Trained(
        framework=f"PyTorch {torch.__version__}",
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        epoch_seconds=progress.seconds,
        test_accuracy=accuracy(answers, test.labels),
    )


def export(shipped: Shipped, shape: tuple[int, int, int]) -> torch.export.ExportedProgram:
    """The shipped module as a self-contained program that takes any batch from 1 to 4096."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    return torch.export.export(shipped, (torch.zeros(2, *shape),), dynamic_shapes={"pixels": {0: batch}})


if __name__ == "__main__":
    main(train, "torch_cnn", "torch")
