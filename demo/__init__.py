"""The embedded world: pictures whose truth a program can check, small models trained on them, and a few photos.

world, captions, checker: scenes of coloured shapes, what is said of them, and what a picture shows. questions: the
same with something missing. tokenizer, text_tower, clip_models, vision_models, generators: how the models are built
and read. photos: public-domain pictures for the image models. weights/: the trained models, each with a card.
training/: how they were made (`python demo/training/train.py NAME`).
"""
