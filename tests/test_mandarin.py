"""Mandarin texts: as they are read aloud, in syllables, and scored by characters."""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from common.cli.language import language_model
from common.config import LMConfig
from common.decoding.decoders import collapse
from common.decoding.ngram_estimation import estimate
from common.decoding.ngram_files import write_compact
from common.decoding.ngram_lm import WordModel
from common.decoding.prefix_beam_search import BeamSearch, Hypothesis
from common.evaluation.decoder_tuning import Trial
from common.evaluation.error_rates import EditCounts
from common.evaluation.scoring import Prediction, Scorer
from common.text.mandarin import numeral
from common.text.normalization import normaliser
from common.text.pinyin import syllables, unreadable
from common.text.tokenizer import CharacterTokenizer
from common.utils.errors import UserError
from common.utils.packages import MissingPackageError
from deepspeech2.src.recipe import RECIPE

INSTALL = "pip install -r requirements-mandarin.txt"


@pytest.fixture
def opencc():
    pytest.importorskip("opencc", reason=INSTALL)


@pytest.fixture
def pypinyin():
    pytest.importorskip("pypinyin", reason=INSTALL)


# ---- numerals

PLACES = {"十": 10, "百": 100, "千": 1000}
MYRIADS = {"万亿": 10**12, "亿": 10**8, "万": 10**4}


def value(read: str) -> int:
    """What a numeral means, read from left to right."""
    if read == "零":
        return 0
    for name, factor in MYRIADS.items():
        if name in read:
            high, _, low = read.partition(name)
            return value(high) * factor + (value(low.lstrip("零")) if low else 0)
    total, digit = 0, 1
    for sign in read:
        if sign in PLACES:
            total, digit = total + digit * PLACES[sign], 0
        elif sign != "零":
            digit = "零一二三四五六七八九".index(sign.replace("两", "二"))
    return total + digit if read[-1] not in PLACES else total


def test_numerals_mean_their_numbers():
    rng = np.random.default_rng(0)
    numbers = {*range(1, 2000), *(10**k for k in range(16)), *(2 * 10**k for k in range(16))}
    numbers |= {int(10 ** rng.uniform(3, 15.9)) for _ in range(3000)}
    numbers |= {int(number) // 1000 * 1000 + 7 for number in rng.integers(10**6, 10**12, 500)}
    for number in numbers:
        assert value(numeral(str(number))) == number, numeral(str(number))


NUMERALS = {
    "0": "零",
    "10": "十",
    "15": "十五",
    "101": "一百零一",
    "110": "一百一十",
    "1005": "一千零五",
    "1050": "一千零五十",
    "2222": "两千二百二十二",
    "10500": "一万零五百",
    "100000": "十万",
    "20010": "两万零一十",
    "10000001": "一千万零一",
    "200000000": "两亿",
    "100100000": "一亿零一十万",
}


def test_numerals_are_those_of_common_usage():
    assert {digits: numeral(digits) for digits in NUMERALS} == NUMERALS


# ---- texts

READ = {
    "１９９８年，中國的ＧＤＰ": "一九九八年中国的GDP",
    "二〇〇八年 1990年代": "二零零八年一九九零年代",
    "2005年以后，2000年前，10年后": "二零零五年以后两千年前十年后",
    "1998-2000年": "一九九八-二零零零年",
    "1,234元，20000人，1.5亿，2万": "一千二百三十四元两万人一点五亿两万",
    "3.14和-5度": "三点一四和负五度",
    "增长50%，２．５％，2.5‰": "增长百分之五十百分之二点五千分之二点五",
    "￥100，$2.5万，￥5元": "一百元二点五万美元五元",
    "25℃": "二十五摄氏度",
    "2个，2小时，2月2日，第2年，2年级": "两个两小时二月二日第二年二年级",
    "007和13812345678，100000000": "零零七和一三八一二三四五六七八一亿",
    "5G手机，mp3": "五G手机mp三",
    "你好，世 界！《红楼梦》·曹雪芹……“好”": "你好世界红楼梦曹雪芹好",
    "用 deep learning 训练": "用deep learning训练",
    "don\u2019t 说 café crème": "don't说café crème",
    "頭髮發展，後來皇后，乾隆": "头发发展后来皇后乾隆",
    "零\u200b宽": "零宽",
    "": "",
}


@pytest.mark.parametrize("written", READ)
def test_texts_as_they_are_read(opencc, written):
    normalise = normaliser("mandarin", ())
    assert normalise(written) == READ[written]
    if "-" not in READ[written]:
        assert normalise(READ[written]) == READ[written]


@pytest.mark.parametrize("sign", ["8:30", "3:2", "1/2", "10-20", "5%~10%", "1—2", "a#b", "30°"])
def test_what_is_read_in_several_ways_stays(opencc, sign):
    (kept,) = set(sign) & set(":/-~—#°")
    assert kept in normaliser("mandarin", ())(f"在{sign}的")


def test_punctuation_among_the_labels_stays(opencc):
    assert normaliser("mandarin", "你好，_")("你好，世界。") == "你好，世界"


def test_a_missing_converter_says_what_to_install(monkeypatch):
    from common.text import mandarin

    mandarin._converter.cache_clear()
    mandarin._is_traditional.cache_clear()
    monkeypatch.setitem(sys.modules, "opencc", None)
    with pytest.raises(MissingPackageError, match="pip install opencc-python-reimplemented"):
        normaliser("mandarin", ())("你好")


# ---- syllables

SPELLED = {
    "银行": "yin2 hang2",
    "行走": "xing2 zou3",
    "银行行长": "yin2 hang2 hang2 zhang3",
    "妈妈": "ma1 ma5",
    "奶奶说": "nai3 nai5 shuo1",
    "重庆很重要": "chong2 qing4 hen3 zhong4 yao4",
    "音乐快乐": "yin1 yue4 kuai4 le4",
    "长大 长江": "zhang3 da4 chang2 jiang1",
    "女儿的绿色旅行": "nv3 er2 de5 lv4 se4 lv3 xing2",
    "略虐待": "lve4 nve4 dai4",
    "我们的孩子": "wo3 men5 de5 hai2 zi5",
    "慢慢地走了": "man4 man4 de5 zou3 le5",
    "的确目的": "di2 que4 mu4 di4",
    "便宜": "pian2 yi5",
    "〇": "ling2",
    "": "",
}


def test_syllables_have_tones_by_phrase(pypinyin):
    assert {text: " ".join(syllables(text)) for text in SPELLED} == SPELLED


def test_what_cannot_be_spelled_is_named(pypinyin):
    assert unreadable("AI技术，3 龘") == set("AI，3")
    with pytest.raises(UserError, match="no Mandarin reading for '3', 'A'; expected Han"):
        syllables("技A术3")


def test_a_missing_pypinyin_says_what_to_install(monkeypatch):
    from common.text import pinyin

    pinyin._pypinyin.cache_clear()
    monkeypatch.setitem(sys.modules, "pypinyin", None)
    with pytest.raises(MissingPackageError, match="no pypinyin, which spells Han characters"):
        syllables("你好")


# ---- characters as words: figures, and beam search with a model of them

HAN = CharacterTokenizer((*"你好世", "_"))
SENTENCES = ["你好世", "你好", "好世", "世你好", "你你好"]


@pytest.mark.parametrize(
    "labels, headline",
    [
        ("你好世界_", "CER"),
        ("你好世界A _", "CER"),
        ("ABC _", "WER"),
        ("ABC你 _", "WER"),
        ("AB_", "WER"),
    ],
)
def test_the_headline_is_told_by_the_script_and_not_by_a_space(labels, headline):
    tokenizer = CharacterTokenizer(tuple(labels))
    assert tokenizer.headline == headline
    scorer = Scorer(tokenizer, 0.02)
    scorer.add(Prediction(0, "a", [Hypothesis(labels[:2], 0.0)], None), labels[:3], 1.0)
    evaluation = scorer.evaluation()
    assert list(evaluation.rates) == [headline, *{"WER", "CER"} - {headline}]
    assert evaluation.summary()[-1].split("\t")[1].startswith(f"Average {headline} ")
    trial = Trial(LMConfig(), EditCounts(1, 0, 0, 1), EditCounts(0, 0, 0, 1), 1.0, headline)
    assert trial.rank[0] == (0.0 if headline == "CER" else 1.0)


@pytest.fixture(scope="module")
def characters(tmp_path_factory) -> Path:
    """A compact model of characters."""
    path = tmp_path_factory.mktemp("lm") / "characters.npz"
    write_compact(estimate([list(text) for text in SENTENCES], 2), path)
    return path


def random_log_probs(frames: int, labels: int, seed: int) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, 1.5, (frames, labels))
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("alpha, beta", [(0.7, 0.5), (2.0, -1.0), (0.0, 1.0)])
def test_a_model_of_characters_scores_each_text(characters, alpha, beta):
    model = WordModel(characters, HAN, alpha, beta, -10.0)
    for seed in range(4):
        log_probs = random_log_probs(5, 4, seed)
        expected: dict[str, float] = {}
        for path in product(range(4), repeat=5):
            text = HAN.decode(collapse(np.array(path), HAN.ctc_blank).tolist())
            score = sum(frame[label] for frame, label in zip(log_probs, path))
            expected[text] = np.logaddexp(expected.get(text, -np.inf), score)
        for text in expected:
            history = model.start()
            for character in text:
                gained, history = model.score(history, character)
                expected[text] += gained
        everything = BeamSearch(HAN, 10**6, top_paths=10**6, language_model=model)(log_probs)
        assert {each.text for each in everything} == set(expected)
        for each in everything:
            assert each.score == pytest.approx(expected[each.text], rel=1e-9)
        narrow = BeamSearch(HAN, 8, top_paths=8, language_model=model)(log_probs)
        assert len(narrow) == 8
        for each in narrow:  # paths may be missing, none is added
            assert each.score <= expected[each.text] + 1e-9


@pytest.mark.parametrize("width", [1, 3, 10])
def test_what_is_not_asked_of_the_model_is_not_among_the_best(characters, width, monkeypatch):
    """The search that asks for every label finds the same texts and scores."""
    model = WordModel(characters, HAN, 0.8, 0.3, -10.0)
    inputs = [random_log_probs(12, 4, seed) for seed in range(5)]
    search = BeamSearch(HAN, width, top_paths=width, language_model=model)
    found = [search(log_probs) for log_probs in inputs]
    model.most = 1e6
    for hypotheses, log_probs in zip(found, inputs):
        assert search(log_probs) == hypotheses


def test_lm_builds_and_measures_models_of_characters(tmp_path, capsys):
    pytest.importorskip("opencc", reason="pip install -r requirements-mandarin.txt")
    labels = tmp_path / "labels_zh.json"
    labels.write_text(json.dumps([*HAN.labels]), "utf-8")
    text = tmp_path / "text.txt"
    text.write_text("你好，世 世！\n好世 X\n\n你 好\n", "utf-8")
    options = [str(text), "--labels", str(labels), "--normalize", "mandarin"]
    output = tmp_path / "zh"
    language_model(RECIPE, ["build", *options, "--order", "2", "--output", str(output)])
    said = capsys.readouterr()
    assert (
        "1 character of 9 are without a label and count as unknown; --normalize mandarin"
        in said.err
    )
    model = WordModel(f"{output}.npz", HAN, 1.0, 0.0, 0.0)
    assert all(model.knows(character) for character in "你好世")
    assert not model.knows("你好")
