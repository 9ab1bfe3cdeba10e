"""The syllables that a network's outputs stand for: of pypinyin's dictionary, or of a corpus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from asrt.src.tokenizer import SyllableTokenizer
from common.data.manifest import read_manifest
from common.model.recipe import Recipe
from common.text.tokenizer import BLANK
from common.utils.arguments import command
from common.utils.errors import UserError
from common.utils.files import check_writable, write_text
from common.utils.packages import package
from common.utils.wording import counted

_PURPOSE = "knows how Chinese characters are pronounced"
_SYLLABLE = re.compile(r"[a-z]+[1-5]")


def build_labels(recipe: Recipe, argv: Sequence[str]) -> None:
    """Run labels.py.

    Args:
        recipe: The model.
        argv: The command line.

    Raises:
        UserError: A manifest cannot be read or has no syllables, or the file cannot be written.
    """
    parser = command(
        prog="labels.py",
        description="Write a labels file: the syllables of the transcripts of manifests, or of "
        "pypinyin's dictionary where none is named.",
    )
    parser.add_argument("manifests", nargs="*", metavar="MANIFEST", help="manifests")
    parser.add_argument("--out", required=True, metavar="JSON", help="labels file to write")
    arguments = parser.parse_args(argv)
    check_writable(arguments.out)
    if arguments.manifests:
        texts = (utterance.text for utterance in read_manifest(arguments.manifests, log=print))
        found = syllables_in(texts)
    else:
        found = dictionary_syllables()
    if not found:
        raise UserError(f"{', '.join(arguments.manifests)}: no syllables in the transcripts")
    labels = [*sorted(found), BLANK]
    write_text(arguments.out, json.dumps(labels) + "\n")
    print(f"{arguments.out}: {counted(len(found), 'syllable')} and the blank")


def syllables_in(texts: Iterable[str]) -> set[str]:
    """Collect the syllables of transcripts in characters or in syllables.

    Args:
        texts: The transcripts.

    Returns:
        Their syllables; what is none, such as a Latin word, is left out.
    """
    tokenizer = SyllableTokenizer((BLANK,))
    found = {part for text in texts for part in tokenizer.normalise(text).split()}
    return {part for part in found if _SYLLABLE.fullmatch(part)}


def dictionary_syllables() -> set[str]:
    """Collect the syllables of pypinyin's dictionary (MIT licence).

    Returns:
        All readings of the 6763 characters of GB 2312, which are those in common use, and all
        syllables of the phrases.
    """
    characters = package("pypinyin.pinyin_dict", _PURPOSE).pinyin_dict
    phrases = package("pypinyin.phrases_dict", _PURPOSE).phrases_dict
    convert = package("pypinyin.contrib.tone_convert", _PURPOSE).to_tone3
    marked = {
        reading
        for code, readings in characters.items()
        if _in_gb2312(chr(code))
        for reading in readings.split(",")
    }
    marked |= {reading[0] for readings in phrases.values() for reading in readings}
    found = {convert(each, v_to_u=False, neutral_tone_with_five=True) for each in marked}
    return {each for each in found if _SYLLABLE.fullmatch(each)}


def _in_gb2312(character: str) -> bool:
    try:
        character.encode("gb2312")
    except UnicodeEncodeError:
        return False
    return True
