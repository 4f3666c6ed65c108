"""Which class of transformers a checkpoint is for, and its logits of every token: what load_one.py and the judges share."""
import json

import torch
import transformers


def loader_class(checkpoint):
    """The one that a user of such a model would name."""
    name = (json.loads((checkpoint / "config.json").read_text()).get("architectures") or [""])[0]
    if "_VLFor" in name or "2VLFor" in name:
        return transformers.AutoModelForImageTextToText if hasattr(transformers, "AutoModelForImageTextToText") else transformers.AutoModelForVision2Seq
    return transformers.AutoModelForSequenceClassification if "SequenceClassification" in name else transformers.AutoModelForCausalLM


def token_logits(model, ids):
    """[tokens, vocabulary], or [tokens, labels] of a classifier, which itself shows those of the last token only."""
    # The kernels load as float16; from here on float32 is exact. Newer classes refuse their own float().
    torch.nn.Module.float(model)
    model.eval()
    with torch.no_grad():
        result = model(ids.reshape(1, -1), output_hidden_states=True)
        return (model.score(result.hidden_states[-1]) if hasattr(model, "score") else result.logits)[0].float()
