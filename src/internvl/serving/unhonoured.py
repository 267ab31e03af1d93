"""Fields of OpenAI's API and of vLLM's that are not honoured, with the values that ask for nothing: these pass."""

from __future__ import annotations

from collections.abc import Mapping

NOT_SAMPLED: Mapping[str, tuple[object, ...]] = {
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "min_p": (None, 0),
    "logit_bias": (None, {}),
    "num_beams": (None, 1),
    "use_beam_search": (None, False),
    "length_penalty": (None, 1),
    "ignore_eos": (None, False),
    "bad_words": (None, []),
    "stop_token_ids": (None, []),
    "include_stop_str_in_output": (None, False),
    "skip_special_tokens": (None, True),
    "spaces_between_special_tokens": (None, True),
    "prompt_logprobs": (None,),
    "truncate_prompt_tokens": (None,),
    "priority": (None, 0),
    "cache_salt": (None,),
    "guided_grammar": (None,),
    "guided_decoding_backend": (None,),
    "guided_whitespace_pattern": (None,),
}
"""How tokens are drawn, and is not done here."""
NOT_KEPT: Mapping[str, tuple[object, ...]] = {
    "store": (None, False),
    "metadata": (None, {}),
    "safety_identifier": (None,),
    "prompt_cache_key": (None,),
    "prompt_cache_options": (None,),
    "prompt_cache_retention": (None, "in_memory"),
    "moderation": (None,),
}
"""What OpenAI's service keeps, sells or watches."""
NOT_TEMPLATED: Mapping[str, tuple[object, ...]] = {
    "add_generation_prompt": (None, True),
    "continue_final_message": (None, False),
    "add_special_tokens": (None, False),
    "chat_template": (None,),
    "chat_template_kwargs": (None, {}),
    "documents": (None, []),
    "mm_processor_kwargs": (None, {}),
}
"""What would change how a conversation is written; that is the checkpoint's own."""
