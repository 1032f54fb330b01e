"""Captions: from prompts, or embeddings made earlier, to what the transformer reads."""

from collections.abc import Sequence
from typing import Any

import torch

T5_LENGTH = 300  # tokens that captions are padded or cut to
Text = tuple[torch.Tensor, torch.Tensor]  # features (b, l, d), mask (b, l)


class Captions:
    """The part of the pipeline that encodes prompts; needs text_encoder and tokenizer alone."""

    text_encoder: Any
    tokenizer: Any
    _execution_device: Any

    def encode_prompt(
        self,
        prompt: str | Sequence[str] | None = None,
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        device=None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        prompt_attention_mask: torch.Tensor | None = None,
        negative_prompt_attention_mask: torch.Tensor | None = None,
        max_length: int | None = None,
    ):
        """Features and masks of prompts and of what guidance leads away from.

        A call of the pipeline takes the four under the same names, in place of prompts: encode,
        free the text encoder, sample.

        Args:
          prompt: one or a batch; or prompt_embeds (b, l, d) with prompt_attention_mask (b, l).
          do_classifier_free_guidance: False: the negative ones are None.
          negative_prompt: one, one for several prompts each, or None for the empty one; or
            negative_prompt_embeds with negative_prompt_attention_mask.
          num_images_per_prompt: every row is repeated so often.
          device: default: where the pipeline computes.
          max_length: caption tokens; default 300 for T5, the encoder's own for hashed text.

        Raises:
          ValueError: neither or both of prompts and embeddings, embeddings without a mask, or
            numbers of prompts that do not fit.
        """
        device = device or self._execution_device
        given = _given("prompt", prompt, prompt_embeds, prompt_attention_mask)
        if given is not None:
            text = given
        elif prompt is not None:
            text = self._encode_texts("prompt", _listed(prompt), max_length, device)
        else:
            raise ValueError("give prompt, or prompt_embeds with prompt_attention_mask")
        null = (None, None)
        if do_classifier_free_guidance:
            name = "negative_prompt"
            null = _given(
                name, negative_prompt, negative_prompt_embeds, negative_prompt_attention_mask
            )
            texts = _listed("" if negative_prompt is None else negative_prompt)
            null = null or self._encode_texts(name, texts, max_length, device)
            if not len(null[0]) or len(text[0]) % len(null[0]):
                raise ValueError(f"{len(null[0])} negative prompts for {len(text[0])} prompts")
            null = _repeated(null, len(text[0]) // len(null[0]) * num_images_per_prompt, device)
        text = _repeated(text, num_images_per_prompt, device)
        prompt_embeds, prompt_attention_mask = text
        negative_prompt_embeds, negative_prompt_attention_mask = null
        return (
            prompt_embeds,
            prompt_attention_mask,
            negative_prompt_embeds,
            negative_prompt_attention_mask,
        )

    def _encode_texts(self, name: str, texts: list[str], max_length, device) -> Text:
        if self.text_encoder is None:
            raise ValueError(
                f"this pipeline has no text_encoder: give {name}_embeds and {name}_attention_mask,"
                " as encode_prompt returns them"
            )
        if self.tokenizer is None:
            embeds, mask = self.text_encoder(texts, max_length)
            return embeds.to(device), mask.to(device)
        tokens = self.tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=max_length or T5_LENGTH,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(device)
        embeds = self.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        return embeds, tokens.attention_mask


def _given(name: str, prompt, embeds, mask) -> Text | None:
    if embeds is None:
        return None
    if prompt is not None:
        raise ValueError(f"give {name} or {name}_embeds, not both")
    if mask is None:
        raise ValueError(f"{name}_embeds needs {name}_attention_mask: which tokens are no padding")
    return embeds, mask


def _listed(prompt: str | Sequence[str]) -> list[str]:
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"prompts must be strings, got {[type(text).__name__ for text in texts]}")
    return texts


def _repeated(text: Text, times: int, device) -> Text:
    features, mask = (tensor.to(device).repeat_interleave(times, dim=0) for tensor in text)
    return features, mask
