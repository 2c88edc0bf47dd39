"""The model card, written from the report so that it cannot say anything else."""

from typing import Any

_RESULT_HEAD = (
    "| test source | texts | accuracy float | accuracy int8 | of three, int8 | macro recall float | macro recall int8 "
    "| ECE int8 |\n|---|---|---|---|---|---|---|---|"
)
_COUNTED = {"train": "trained on", "validation": "validation", "test": "tested on"}


def card(report: dict[str, Any]) -> str:
    """Return README.md for a report of `package.ship`."""
    recipe, agreement = report["recipe"], report["export"]
    return f"""# Sentiment model `{report["model"]}`

A six-layer MiniLM encoder with a linear head over the mean token vector, fine-tuned to tell negative, neutral and
positive English texts apart, exported to ONNX for one text at a time and quantised to int8 (weights per channel,
activations dynamically). The encoder is {recipe["encoder"]}.
`weights/` holds what is served; `report.json` holds every figure below and more.

## Use and limits
For reviews, survey answers, support messages and short posts in English. Other languages get a guess at best. Irony,
mixed opinions and opinions about several things are beyond it. Tweets are mostly about public affairs in the training
data. It must not be used to judge persons.

## Recipe
`{recipe["command"]}`, seed {recipe["seed"]}, passes over the data: {recipe["epochs"]}, batches of
{recipe["batch"]}, texts cut to {recipe["tokens"]} tokens, AdamW with learning rates {recipe["encoder_learning_rate"]}
(encoder) and {recipe["head_learning_rate"]} (head), bfloat16 autocast, classes weighted by the inverse square root of
their counts.
Where annotators could not say neutral, the neutral logit takes no part in the loss. Logits are divided by a temperature
of {report["temperature"]}, fitted on the validation texts of the sources with a neutral.

Texts of each source, by label:

| source | part | negative | neutral | positive |
|---|---|---|---|---|
{_count_rows(report["texts"])}

A training text that equals a held-out one letter for letter, or shares eight words in a row with one, was left out, as
were repeats: {_left_out(report["left_out"])}.

The sources are public research data sets: SST-2 and rt_polarity (movie reviews, Pang and Lee 2005, Socher et al. 2013),
customer reviews (Hu and Liu 2004), Amazon reviews of musical instruments, SemEval-2016 restaurant reviews, TweetEval
(validation split) and UMSAB English (tweets; Barbieri et al. 2020, 2022). Their terms are mixed and mostly meant for
research; the weights hold none of their texts. The UCI Sentiment Labelled Sentences (Kotzias et al. 2015) were only
tested on.

## Results
Two-class sources are judged with neutral ruled out; "of three" is the accuracy when it is not: the model then
calls a share of the reviews neutral, which no annotator could. UMSAB's test texts are also in TweetEval's. ECE is the
expected calibration error of the int8 model.

{_RESULT_HEAD}
{_result_rows(report["test"])}

Beside these, TweetEval's authors report a macro recall of 0.629 for FastText and 0.713 for RoBERTa-base, both trained
on its 45,000 training tweets.

## Export
On {agreement["texts"]} test texts, one at a time: the float ONNX model differs from torch {agreement["torch"]} by at
most {agreement["float_largest_logit_difference"]} in a logit; the int8 model gives the same label as torch for
{agreement["int8_same_label"]:.1%} and moves the probabilities by {agreement["int8_mean_probability_difference"]} on
average. Sizes in bytes: {", ".join(f"{name} {size:,}" for name, size in report["sizes"].items())}.
"""


def _count_rows(texts: dict[str, dict[str, dict[str, int]]]) -> str:
    return "\n".join(
        f"| {source} | {_COUNTED[part]} | {n.get('negative', 0)} | {n.get('neutral', 0)} | {n.get('positive', 0)} |"
        for part, sources in texts.items()
        for source, n in sources.items()
    )


def _left_out(found: dict[str, dict[str, int]]) -> str:
    return "; ".join(f"{source} {n.get('leak', 0)} leaks, {n.get('repeat', 0)} repeats" for source, n in found.items())


def _result_rows(found: dict[str, Any]) -> str:
    return "\n".join(_result_row(source, row) for source, row in found.items())


def _result_row(source: str, row: dict[str, Any]) -> str:
    full, int8 = row["float"], row["int8"]
    cells = [
        f"{full['accuracy']:.3f}",
        f"{int8['accuracy']:.3f}",
        f"{int8['accuracy_of_three']:.3f}",
        f"{full['macro_recall']:.3f}",
        f"{int8['macro_recall']:.3f}",
        f"{int8['calibration_error']:.3f}",
    ]
    return f"| {source} | {row['texts']} | {' | '.join(cells)} |"
