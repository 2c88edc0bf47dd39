"""The student's model card, written from its report so that it cannot say anything else."""

from typing import Any


def card(report: dict[str, Any]) -> str:
    """Return README.md for a report of `student_train.ship`."""
    recipe = report["recipe"]
    return f"""# Sentiment student `{report["model"]}`

Multinomial logistic regression on hashed n-grams (of 3 to 5 characters, words and pairs of words, 2^18 buckets each),
for texts in the languages below. Weights are int8, {report["bytes"]:,} bytes in the file. `report.json` holds every
figure below and more.

## Use and limits
For reviews, survey answers and short posts. Most texts of a language are tweets or restaurant reviews, so words of
other trades are unknown to it. Irony, mixed opinions and opinions about several things are beyond it. It must not be
used to judge persons.

## Recipe
`python -m models.sentiment.student_train --data FOLDER --out FOLDER --seed {recipe["seed"]}`: L-BFGS for
{recipe["rounds"]} rounds, L2 penalty {recipe["penalty"]}, an n-gram's weight its inverse document frequency to the
power of {recipe["rarity"]}, times {recipe["words"]} for words; labels equally heavy within each source and language.
Logits are divided by a temperature of {report["temperature"]}, fitted on the validation texts of the sources with a
neutral. The seed says which English texts are held out, the same as for the transformer. Confidences below which the
cascade asks the transformer, by level: {", ".join(map(str, report["thresholds"]))}.

Texts that equal a held-out one letter for letter in any language, or share eight words in a row with one, were left
out, as were repeats. Italian sources were not trained on, because of their terms.

| source and language | part | negative | neutral | positive |
|---|---|---|---|---|
{_count_rows(report["texts"])}

## Validation
Hyperparameters, temperature and thresholds were chosen on these texts, so the figures flatter a little; those of the
test splits are in `docs/sentiment.md`. Sources without a neutral are judged with neutral ruled out. A macro recall near
0.33 is chance.

| source and language | texts | accuracy | macro recall | ECE |
|---|---|---|---|---|
{_result_rows(report["validation"])}
"""


def _count_rows(texts: dict[str, dict[str, dict[str, int]]]) -> str:
    return "\n".join(
        f"| {name} | {part} | {n.get('negative', 0)} | {n.get('neutral', 0)} | {n.get('positive', 0)} |"
        for part, sources in texts.items()
        for name, n in sources.items()
    )


def _result_rows(found: dict[str, dict[str, float]]) -> str:
    return "\n".join(
        f"| {name} | {row['texts']} | {row['accuracy']:.3f} | {row['macro_recall']:.3f} | {row['ece']:.3f} |"
        for name, row in found.items()
    )
