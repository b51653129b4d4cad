"""The fields of every config, with the baseline's values (Section F of the supplement).

Configs are ``ml_collections.ConfigDict``s. Other configs start from `get_config` and
change a few fields; the command line may change any field of any config:
``--config.model.width=16``.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The AT baseline of the study on CIFAR-10."""
    return ConfigDict(
        {
            "name": "at",
            "seed": 0,
            "data": {
                # "digits", "tfds:NAME", or the path of an .npz or of a folder of .npy files
                "source": "tfds:cifar10",
                "dir": "",  # of TFDS; empty: TFDS's own default
                "train_examples": 0,  # only the first so many; 0: all
                "flip": True,
                "crop": 4,  # pixels per side
                "autoaugment": False,  # the CIFAR-10 policy, after flips and crops
                "cutout": 0,  # pixels per side of a black square; after all others
                "label_noise": 0.0,  # share of labels drawn anew, for the update only
                "extra": "",  # a file of pseudo-labelled images, half of every batch
                # Threads that read the training images of coming steps; 0: all images live on
                # the devices. For sets that are too large for them; changes no result.
                "stream": 0,
            },
            "model": {
                "exported": "",  # the file of an exported model instead of one of our own
                # A file of weights for the model that the other fields describe, to measure;
                # what it holds is filled in. The name of the network in the zoo, if it is one.
                "weights": "",
                "weights_sha256": "",
                "zoo": "",
                "name": "resnet18",
                "width": 64,
                "activation": "relu",  # or "silu", "mish", "gelu"
                # Per channel, for whitening; (): of the training images.
                "mean": (),
                "std": (),
                # Of logits by normalised features and weights (Pang et al., 2020); 0: linear.
                "cosine_scale": 0.0,
                "dropout": 0.0,  # inside the blocks
                "dtype": "float32",  # of the computation; "bfloat16" is faster on GPU and TPU
                "remat": False,  # gradients with less memory, more time; the same result
            },
            "adversary": {
                "name": "pgd",  # or "none": plain training
                "threat": "linf",
                "epsilon": 8 / 255,
                "steps": 7,
                "step_size": 0.007,
                "loss": "cross_entropy",  # or "margin", or "kl": from the clean prediction
                "stop_early": False,  # PGD-tau: examples stop once misclassified,
                "stop_after": 0,  # so many steps later
                "ignore_incorrect": False,  # no attack on what is misclassified without
                "prevent_label_leaking": False,  # against predicted labels
            },
            # "cross_entropy", "trades", "mart" or "self_supervision"; what is not the
            # cross-entropy has a weight, lambda. Smoothing is for the update only.
            "objective": {"name": "cross_entropy", "weight": 0.0, "label_smoothing": 0.0},
            # At which weights the gradient is taken: "awp" (radius, steps) or "sam" (radius).
            "weight_adversary": {"name": "", "radius": 0.0, "steps": 0},
            # Once an update is done; 0: not at all.
            "after": {"clip_weights": 0.0, "average_weights": 0.0},
            "optimiser": {
                "name": "sgd",  # or "adam", "entropy_sgd"
                "learning_rate": 0.05,
                "milestones": (60, 90, 120),  # epochs
                "factor": 0.1,
                "cycle": 0,  # epochs: a triangle up to the learning rate and back, instead
                "inner_steps": 0,  # L of Entropy-SGD, each with a batch of its own
                "momentum": 0.9,
                "nesterov": True,
                # Section F prints 0.005, but Table D lists that as a row of its own with
                # other results, and the released experiments use 0.0005.
                "weight_decay": 0.0005,
            },
            "train": {
                "epochs": 150,
                "batch_size": 128,
                "snapshot_every": 5,  # epochs
                "steps_per_dispatch": 65,
                # Of each batch, one after the other, to save memory; 0: all at once. Batch
                # normalisation then goes by micro-batch.
                "micro_batches": 0,
            },
            # On the last test examples, at every snapshot; for early stopping.
            "validation": {
                "examples": 500,
                "threat": "linf",
                "epsilon": 8 / 255,
                "steps": 7,
                "step_size": 0.007,
                "restarts": 5,
            },
            "evaluation": {
                "seed": 0,
                "batch_size": 128,
                "matmul_precision": "highest",  # of measures: no TF32, no bf16 passes
                "clean_train_examples": 10000,
                "examples": 1000,  # attacked, the first ones of test and of train
                "threat": "linf",
                "epsilon": 8 / 255,
                "steps": 20,
                "step_size": 0.007,
                "restarts": 10,
                "chunk": 0,  # examples times restarts at once; 0: all of a batch
                "autoattack": "standard",  # beside PGD on test examples; "plus" or "none"
                # Beside the final checkpoint also the one of lowest validation RErr.
                "early_stopping": False,
            },
            "flatness": {
                "seed": 0,
                "splits": ("test",),
                "per": "layer",  # or "filter": what weights' norms are relative to
                "drawn": "ball",  # weights: uniform in the ball, "sphere", or "norm"
                "fixed": False,  # the same weight draws for all batches
                "average": {"radius": 0.5, "samples": 10, "steps": 20, "step_size": 0.007},
                "worst": {
                    "radius": 0.003,
                    "steps": 20,
                    "restarts": 10,
                    "input_step_size": 0.007,
                    "weight_step_size": 0.001,  # Section D; the released experiments: 0.01
                },
            },
            # Smaller measures at every snapshot, for curves through training. With the steps
            # of the full measures those of flatness share their compilations.
            "snapshots": {
                "examples": 256,
                "steps": 20,
                "restarts": 1,
                "average_samples": 4,
                "worst_restarts": 1,
                "products": 20,  # of lambda_max; 0: leave it out
            },
            # Eigenvalues of the Hessian of Loss (Table A).
            "curvature": {
                "seed": 0,
                "which": "first",  # or "last"; the released experiments: the last 500
                "examples": 1000,
                "leaves": "all",  # or "several_dimensions", as the released experiments: kernels
                "products": 50,  # Hessian-vector products, each a copy of the weights in memory
                "probes": 4,  # random vectors of the spectral density
            },
            # RLoss and Loss along directions (Section C).
            "landscape": {
                "seed": 0,
                "examples": 128,
                "steps": 51,
                "attack_steps": 20,
                "directions": 10,
                "random_length": 0.5,
                "adversarial_length": 0.025,
                "surface_steps": 21,
            },
        }
    )
