"""The small pre-trained pair for learning experiments: `vilt-small-easy` and `meter-small-easy`, made on this machine in minutes.

captions.py writes captions from easy-vqa's training records, starting.py puts the models together from DINOv2-S and MiniLM,
objectives.py is what they learn, pretrain.py the run from a name to a model in the zoo's cache.
"""
