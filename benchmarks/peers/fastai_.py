"""fastai: a Learner. On: bar, loss and accuracy, a line each epoch."""

from fastai.basics import SGD, CrossEntropyLossFlat, DataLoaders, Learner, accuracy, partial
from fastai.callback import progress  # noqa: F401 (gives each Learner its bar)

from benchmarks.work import BATCH_SIZE, LEARNING_RATE, MOMENTUM


def train(model, train_set, test_set, epochs):
    dls = DataLoaders.from_dsets(train_set, test_set or [], bs=BATCH_SIZE, device="cpu")
    learner = Learner(
        dls,
        model,
        loss_func=CrossEntropyLossFlat(),
        opt_func=partial(SGD, mom=MOMENTUM),
        metrics=accuracy,
    )
    learner.recorder.train_metrics = True
    learner.fit(epochs, lr=LEARNING_RATE)
