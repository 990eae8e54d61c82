import numpy as np
import pytest

from capgpu.data import emoji
from capgpu.vocabulary import Vocabulary, caption_text, detokenize, tokenize

ARRAYS = ("captions", "features", "image_idxs")


@pytest.fixture(scope="module")
def data():
    return emoji.load()


def people_groups(data):
    """All variants outside the unseen part, by base name."""
    groups = {}
    for part in ("train", "val", "test"):
        for name, base in zip(data[f"{part}_names"], data[f"{part}_base"], strict=True):
            groups.setdefault(base, []).append((part, name))
    return groups


def test_parts_have_the_shapes_and_dtypes_of_the_course(data):
    for part in emoji.PARTS:
        n = len(data[f"{part}_names"])
        assert data[f"{part}_captions"].shape == (n, data["train_captions"].shape[1])
        assert data[f"{part}_captions"].dtype == np.int32
        assert data[f"{part}_features"].shape == (n, 256)
        assert data[f"{part}_features"].dtype == np.float32
        assert data[f"{part}_image_idxs"].tolist() == list(range(n))
        assert len(data[f"{part}_base"]) == len(data[f"{part}_characters"]) == n


def test_grids_are_the_same_pictures_in_cells(data):
    grids = emoji.load(grid=True)
    assert grids.keys() == data.keys()
    for part in emoji.PARTS:
        assert grids[f"{part}_names"] == data[f"{part}_names"]
        features = grids[f"{part}_features"]
        assert features.shape == (len(data[f"{part}_names"]), emoji.GRID_SIDE**2, 128)
        assert features.dtype == np.float32
    train, test = (grids[f"{part}_features"] for part in ("train", "test"))
    assert 0.9 < (train**2).mean() < 1.1
    assert abs(train.mean(axis=(0, 1))).max() < 0.02
    # the mean over the cells tells pictures apart as the pooled features do
    pooled, mean = data["test_features"], test.mean(axis=1)
    similar = np.corrcoef(pooled)[np.triu_indices(len(pooled), 1)], np.corrcoef(mean)[np.triu_indices(len(mean), 1)]
    assert np.corrcoef(*similar)[0, 1] > 0.9


def test_set_holds_about_3500_pictures(data):
    sizes = {part: len(data[f"{part}_names"]) for part in emoji.PARTS}
    assert 3400 < sum(sizes.values()) < 3600
    assert abs(sizes["val"] - sizes["test"]) <= 1
    assert 150 <= sizes["test"] <= 250
    assert 130 <= sizes["unseen"] <= 150


def test_no_picture_and_no_name_is_in_two_parts(data):
    for key in ("names", "characters"):
        entries = [entry for part in emoji.PARTS for entry in data[f"{part}_{key}"]]
        assert len(entries) == len(set(entries))


def test_held_out_variants_have_a_base_and_words_that_training_knows(data):
    bases = set(data["train_base"])
    words = {token for name in data["train_names"] for token in tokenize(name)}
    for part in ("val", "test"):
        assert set(data[f"{part}_base"]) <= bases
        assert {token for name in data[f"{part}_names"] for token in tokenize(name)} <= words
        assert not (data[f"{part}_captions"] == data["word_to_idx"]["<UNK>"]).any()


def test_about_a_fifth_of_each_groups_variants_is_held_out(data):
    for base, variants in people_groups(data).items():
        held_out = [name for part, name in variants if part != "train"]
        if held_out:
            assert len(variants) >= 4, base
            assert len(held_out) <= round(len(variants) / 5), base
        elif any("skin tone" in name for _, name in variants):
            assert len(variants) < 4, base


def test_unseen_emoji_have_no_relative_in_another_part(data):
    known = {base for part in ("train", "val", "test") for base in data[f"{part}_base"]}
    assert not known & set(data["unseen_base"])
    tones = {chr(point) for point in range(0x1F3FB, 0x1F400)}
    signs = {"\u200d", "\u2640", "\u2642", "\u27a1"}
    persons = str.maketrans({"\U0001f468": "\U0001f9d1", "\U0001f469": "\U0001f9d1"})

    def stem(characters):
        return "".join(c for c in characters if c not in tones | signs).translate(persons) or characters

    known = {stem(c) for part in ("train", "val", "test") for c in data[f"{part}_characters"]}
    assert not known & {stem(c) for c in data["unseen_characters"]}


def test_flags_and_rude_gestures_are_left_out(data):
    for part in emoji.PARTS:
        for name, characters in zip(data[f"{part}_names"], data[f"{part}_characters"], strict=True):
            assert not name.startswith("flag:")
            assert not any(0x1F1E6 <= ord(c) <= 0x1F1FF or ord(c) in (0x1F3F4, 0x1F595) for c in characters)


def test_vocabulary_comes_from_the_training_names_alone(data):
    vocabulary = Vocabulary.build(data["train_names"])
    assert data["idx_to_word"] == vocabulary.idx_to_word
    assert data["word_to_idx"] == vocabulary.word_to_idx


def test_captions_are_the_encoded_names(data):
    vocabulary = Vocabulary(data["idx_to_word"])
    for part in emoji.PARTS:
        names, captions = data[f"{part}_names"], data[f"{part}_captions"]
        assert np.array_equal(captions, vocabulary.encode_all(names, captions.shape[1]))
    texts = caption_text(data["train_captions"], data["idx_to_word"])
    assert texts == [name.lower() for name in data["train_names"]]


def test_every_name_can_be_put_together_again(data):
    for part in emoji.PARTS:
        for name in data[f"{part}_names"]:
            assert detokenize(tokenize(name)) == name.lower()


def test_features_are_finite_and_of_unit_size(data):
    for part in emoji.PARTS:
        features = data[f"{part}_features"]
        assert np.isfinite(features).all()
        assert 0.8 < np.square(features).mean() < 1.2
    assert np.abs(data["train_features"].mean(axis=0)).max() < 0.02


def test_pictures_that_look_alike_have_features_of_their_own(data):
    features = np.concatenate([data[f"{part}_features"] for part in emoji.PARTS])
    assert len(np.unique(features, axis=0)) == len(features)


def test_a_loaded_set_may_be_modified_without_touching_the_next():
    first = emoji.load()
    for part in emoji.PARTS:
        for key in ARRAYS:
            first[f"{part}_{key}"][:] = 7
        first[f"{part}_names"].clear()
    first["word_to_idx"].clear()
    second = emoji.load()
    assert not (second["train_features"] == 7).all()
    assert second["val_captions"][0, 0] == 1
    assert second["test_image_idxs"][0] == 0
    assert second["unseen_names"]
    assert second["word_to_idx"]


@pytest.mark.parametrize(
    ("caption", "base"),
    [
        ("Woman firefighter: medium skin tone", "woman firefighter"),
        ("kiss: woman, man, light skin tone, dark skin tone", "kiss"),
        ("Mrs. Claus", "mrs. claus"),
        ("", ""),
        (": : a", ""),
    ],
)
def test_base_name_ends_before_the_first_colon(caption, base):
    assert emoji.base_name(caption) == base


def test_scores_count_whole_names_and_base_names_without_case():
    captions = ["mrs. claus", "kiss: man, man", "dog", "person: bald"]
    names = ["Mrs. Claus", "kiss: woman, man", "cat", "person"]
    assert emoji.exact_and_base(captions, names) == (0.25, 0.75)
    with pytest.raises(ValueError, match="expected one for each of 0 names, at least one, got 0"):
        emoji.exact_and_base([], [])
    with pytest.raises(ValueError, match="expected one for each of 3 names, at least one, got 4"):
        emoji.exact_and_base(captions, names[:3])


def test_projection_maps_its_mean_to_zero_and_keeps_averages():
    pooled = np.random.default_rng(0).random((2, 1280), dtype=np.float32)
    features = emoji.project(pooled)
    assert features.shape == (2, 256)
    assert features.dtype == np.float32
    middle = emoji.project(pooled.mean(axis=0, keepdims=True))
    np.testing.assert_allclose(middle[0], features.mean(axis=0), atol=1e-4)
    mean = emoji._read_npz("emoji_pca.npz")["mean"]
    np.testing.assert_allclose(emoji.project(mean[None]), 0, atol=1e-5)


def test_features_and_projection_belong_together(data):
    components = emoji._read_npz("emoji_pca.npz")["components"].astype(np.float64)
    lengths = np.linalg.norm(components, axis=0)
    directions = components / lengths
    np.testing.assert_allclose(directions.T @ directions, np.eye(256), atol=2e-3)
    # each component was divided by the root of its deviation, so its length times the features' is fixed
    deviations = data["train_features"].std(axis=0)
    np.testing.assert_allclose(lengths * deviations, (lengths * deviations).mean(), rtol=5e-3)


@pytest.mark.parametrize("shape", [(1280,), (2, 256), (1, 2, 1280)])
def test_projection_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"\(N, 1280\)"):
        emoji.project(np.zeros(shape, np.float32))


def test_thumbnails_are_pictures_one_unlike_the_other(data):
    seen = set()
    for part in emoji.SPRITE_PARTS:
        for i in data[f"{part}_image_idxs"]:
            picture = emoji.thumbnail(part, i)
            assert picture.shape == (64, 64, 3)
            assert picture.dtype == np.uint8
            assert picture.std() > 5
            seen.add(picture.tobytes())
    assert len(seen) == sum(len(data[f"{part}_names"]) for part in emoji.SPRITE_PARTS)


def test_thumbnails_show_the_named_colour(data):
    greens = [
        (part, i)
        for part in emoji.SPRITE_PARTS
        for i, name in enumerate(data[f"{part}_names"])
        if name in ("green heart", "green circle", "green book", "green apple")
    ]
    assert greens
    for part, i in greens:
        red, green, blue = emoji.thumbnail(part, i).reshape(-1, 3).mean(axis=0)
        assert green > red
        assert green > blue


def test_a_thumbnail_may_be_drawn_upon():
    emoji.thumbnail("test", 0)[:] = 0
    assert emoji.thumbnail("test", 0).any()


@pytest.mark.parametrize(
    ("part", "index", "message"),
    [
        ("train", 0, "part: expected one of val, test, unseen"),
        ("val", -1, "got -1"),
        ("test", 10_000, "got 10000"),
    ],
)
def test_thumbnail_names_what_it_has(part, index, message):
    with pytest.raises(ValueError, match=message):
        emoji.thumbnail(part, index)


def test_loading_needs_no_pickle(data):
    with (emoji._FILES / "emoji.npz").open("rb") as file, np.load(file, allow_pickle=False) as stored:
        assert all(stored[key].dtype.kind in "fiU" for key in stored.files)
