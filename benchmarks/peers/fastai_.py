"""fastai: a Learner over PyTorch's own loaders. On: bar, loss and accuracy, a line each epoch."""

from fastai.basics import SGD, CrossEntropyLossFlat, DataLoaders, Learner, accuracy, partial
from fastai.callback import progress  # noqa: F401 (gives each Learner its bar)
from torch.utils.data import DataLoader

from benchmarks.work import BATCH_SIZE, LEARNING_RATE, MOMENTUM


def train(model, train_set, test_set, epochs):
    train_loader = DataLoader(train_set, batch_size=BATCH_SIZE, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=BATCH_SIZE) if test_set else []
    learner = Learner(
        DataLoaders(train_loader, test_loader),
        model,
        loss_func=CrossEntropyLossFlat(),
        opt_func=partial(SGD, mom=MOMENTUM),
        metrics=accuracy,
    )
    learner.recorder.train_metrics = True
    learner.fit(epochs, lr=LEARNING_RATE)
