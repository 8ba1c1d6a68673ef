"""Search over the arms of a method: which layers DAS skips, where DVP's prompts enter."""
