"""Outcomes of choices between captions that differ in few words."""

from typing import Any

import numpy as np

from align_keras.evaluation.exact_scores import row_norms


def caption_choice_outcomes(
    image_embeddings: Any, caption_embeddings: Any, negative_embeddings: Any
) -> np.ndarray:
    """Compares the correct and the wrong caption of each image.

    A choice is correct if the cosine of the image and the correct caption is the larger
    one. A tie is wrong.

    Args:
        image_embeddings: real array (n, d), rows of unit length.
        caption_embeddings: real array (n, d), the correct captions.
        negative_embeddings: real array (n, d), the wrong captions.

    Returns:
        float64 array (n,) with 1 for a correct choice, else 0.

    Raises:
        InputError: if an embedding is not finite.

    References:
        Hsieh et al. 2023, SugarCrepe.

    Example:

    >>> images = np.eye(2)
    >>> caption_choice_outcomes(images, images, images[::-1]).tolist()
    [1.0, 1.0]
    """
    images = _finite("image_embeddings", image_embeddings)
    captions = _finite("caption_embeddings", caption_embeddings)
    negatives = _finite("negative_embeddings", negative_embeddings)
    correct = np.einsum("nd,nd->n", images, captions)
    wrong = np.einsum("nd,nd->n", images, negatives)
    return (correct > wrong).astype(float)


def winoground_outcomes(
    image_embeddings: Any, caption_embeddings: Any
) -> dict[str, np.ndarray]:
    """Computes the text score, the image score and the group score of each example.

    The text score requires that both images are nearer to their own caption than to the
    other one. The image score requires that both captions are nearer to their own
    image. The group score requires both. A tie is wrong.

    Args:
        image_embeddings: real array (n, 2, d), unit length.
        caption_embeddings: real array (n, 2, d), unit length.

    Returns:
        dict from `"text_score"`, `"image_score"` and `"group_score"` to a float64 array
        (n,) of 0 and 1.

    Raises:
        InputError: if an embedding is not finite.

    References:
        Thrush et al. 2022, Winoground, section 4.

    Example:

    >>> images = np.eye(2)[None]
    >>> captions = np.array([[[1.0, 0.0], [0.9, 0.8]]])
    >>> {name: int(values[0]) for name, values in
    ...  winoground_outcomes(images, captions).items()}
    {'text_score': 1, 'image_score': 0, 'group_score': 0}
    """
    images = _finite("image_embeddings", image_embeddings)
    captions = _finite("caption_embeddings", caption_embeddings)
    cosines = np.einsum("nid,ncd->nic", images, captions)
    matching = np.einsum("nii->ni", cosines)
    # Cosines of each image and the wrong caption.
    wrong_caption = np.stack([cosines[:, 0, 1], cosines[:, 1, 0]], axis=1)
    # Cosines of each caption and the wrong image.
    wrong_image = wrong_caption[:, ::-1]
    text = (matching > wrong_caption).all(axis=1)
    image = (matching > wrong_image).all(axis=1)
    outcomes = {"text_score": text, "image_score": image, "group_score": text & image}
    return {name: values.astype(float) for name, values in outcomes.items()}


def _finite(name: str, embeddings: Any) -> np.ndarray:
    """Returns embeddings as float64, and raises `InputError` if one is not finite."""
    rows = np.asarray(embeddings, float)
    # The comparisons of NaN would count as wrong choices.
    row_norms(name, rows.reshape(-1, rows.shape[-1]))
    return rows
