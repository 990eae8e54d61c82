"""The JSON documents of the API.

Types are described where they are declared, and `capgpu.serve.openapi` makes the API's description from them. Clients
ignore members that they do not know: later versions add some.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

__all__ = [
    "Caption",
    "Captions",
    "Curve",
    "Gallery",
    "GalleryItem",
    "Grid",
    "Health",
    "Match",
    "Model",
    "Point",
    "Reward",
    "Run",
    "Score",
    "Word",
]

Match = Literal["right", "near", "wrong"]


class Health(TypedDict):
    """Whether the server works."""

    status: Literal["ok"]
    version: Annotated[str, "Version of capgpu."]
    model: Annotated[bool, "Whether the run has a model that captions pictures."]


class Grid(TypedDict):
    """The cells of a picture that a model with attention weighs."""

    side: Annotated[int, "The grid has side x side cells."]
    fit: Annotated[
        Literal["stretch", "crop", "pad"],
        "What the grid covers: the picture; its middle, a square; or the square around it.",
    ]


class Model(TypedDict):
    """The model that captions are written by."""

    cell: Annotated[str, "rnn, lstm, gru or attention."]
    layers: Annotated[int, "Recurrent layers."]
    hidden: Annotated[int, "Size of the hidden state."]
    words: Annotated[int, "Size of the vocabulary."]
    parameters: Annotated[int, "Number of parameters."]
    backend: Annotated[str, "Where it computes: numpy, cpu or cuda."]
    grid: Annotated[Grid | None, "null without attention, and before pictures can be captioned."]


class Split(TypedDict):
    """A split of the data set."""

    name: str
    description: Annotated[str, "Empty if the data set has none."]
    pictures: int


class UploadLimits(TypedDict):
    """Limits of uploaded pictures."""

    bytes: Annotated[int, "Bytes of a picture file."]
    pixels: Annotated[int, "Pixels of a decoded picture."]


class Run(TypedDict):
    """The run that is served."""

    name: Annotated[str, "Name of the run folder."]
    data: Annotated[str, "Name of the data set."]
    model: Annotated[Model | None, "null until the run has a model."]
    model_missing: Annotated[str | None, "Why pictures cannot be captioned; null if they can."]
    splits: Annotated[list[Split], "The splits that the gallery shows."]
    splits_missing: Annotated[str | None, "Why there is no gallery; null if there is one."]
    limits: UploadLimits
    version: Annotated[str, "Version of capgpu."]


class Word(TypedDict):
    """A word of a caption."""

    text: str
    probability: Annotated[float, "The model's probability of the word after the words before it."]
    attention: Annotated[
        list[float] | None,
        "Weights of the cells of the grid as the word was chosen, row by row, with the sum 1; null without attention.",
    ]


class Caption(TypedDict):
    """A caption of a picture."""

    text: Annotated[str, "The sentence."]
    probability: Annotated[float, "Probability of the caption under the model, its end included."]
    log_probability: Annotated[float, "Its logarithm, in nats."]
    words: Annotated[list[Word], "The words, without the end."]
    end: Annotated[float | None, "Probability of the end after the last word; null if the caption was cut off."]
    end_attention: Annotated[list[float] | None, "As of a word; null also if the caption was cut off."]


class UploadedPicture(TypedDict):
    """A picture as it was received."""

    format: Annotated[str, "Such as JPEG."]
    width: int
    height: int


class Timing(TypedDict):
    """How a request was computed."""

    batch: Annotated[int, "Number of pictures that were captioned in one call."]
    waited: Annotated[float, "Seconds in the queue."]
    computed: Annotated[float, "Seconds of that call."]


class Captions(TypedDict):
    """The captions of a picture, the best first; sampled ones in order of their probability."""

    captions: list[Caption]
    picture: UploadedPicture
    timing: Timing


class GalleryItem(TypedDict):
    """A picture of a split with the model's caption and the reference captions."""

    index: Annotated[int, "Index in the split."]
    caption: str
    references: list[str]
    match: Annotated[Match, "right: equal to a reference; near: only the base names are equal; wrong: neither."]
    score: Annotated[float | None, "CIDEr relative to the best reference; null without references."]
    picture: Annotated[str | None, "Address of the picture; null for data without pictures."]


class Gallery(TypedDict):
    """Part of a split, or the progress of captioning it."""

    split: str
    state: Annotated[Literal["ready", "computing"], "While computing, items are missing: ask again."]
    progress: Annotated[float, "Fraction of the split that has been captioned."]
    items: list[GalleryItem]
    found: Annotated[int, "Number of pictures that match the query, of which items are a part."]
    counts: Annotated[dict[str, int], "Number of pictures that match the query words, by match."]
    base_names: Annotated[bool, "Whether captions of this data set have base names."]


class Point(TypedDict):
    """The loss at some time of training, in nats per word."""

    epoch: Annotated[float, "Epochs done."]
    loss: float


class Reward(TypedDict):
    """The mean reward of the captions that self-critical training has drawn, at some time of training."""

    epoch: Annotated[float, "Epochs done."]
    reward: float


class Score(TypedDict):
    """A score of the captions that the model writes after an epoch."""

    epoch: Annotated[int, "Epochs done."]
    name: Annotated[str, "Such as CIDEr."]
    score: float


class Curve(TypedDict):
    """The losses of a run, and how far it is."""

    state: Annotated[
        Literal["waiting", "training", "finished", "stopped", "interrupted", "failed"],
        "waiting: there is no record yet; stopped: finished before its last epoch on purpose.",
    ]
    reason: Annotated[str | None, "Of a run that failed."]
    epoch: Annotated[int, "Epochs done."]
    epochs: Annotated[int, "Epochs in total."]
    step: Annotated[int, "Updates done."]
    steps: Annotated[int | None, "Updates in total; null while they are unknown."]
    seconds: Annotated[float, "Time of training in finished epochs."]
    remaining: Annotated[float | None, "Estimated seconds until the end; null unless it trains."]
    tokens_per_second: float | None
    learning_rate: float | None
    training_steps: Annotated[
        list[Point], "Training loss of single minibatches, thinned out; none of self-critical training."
    ]
    training: Annotated[list[Point], "Mean training loss of each epoch; none of self-critical training."]
    validation: Annotated[list[Point], "Validation loss after each epoch."]
    best: Annotated[Point | None, "The smallest validation loss."]
    reward_steps: Annotated[list[Reward], "Reward of single minibatches, thinned out; of self-critical training alone."]
    rewards: Annotated[list[Reward], "Mean reward of each epoch; of self-critical training alone."]
    best_score: Annotated[Score | None, "The best score, where the best epoch is chosen by one; otherwise null."]
    silent: Annotated[float | None, "Seconds since training last wrote its record; null without a record."]
