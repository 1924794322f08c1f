"""Featurise many samples and choose a model with scikit-learn, in parallel through the joblib backend.

Run it with ``python examples/featurize_and_fit.py [SAMPLES]``. Needs ``pip install ".[joblib]" scikit-learn``; on
Lambda, scikit-learn in the runtime.

The features are made by ``joblib.Parallel``, and the search is scikit-learn's own: inside ``parallel_config`` both make
calls of PyWren, and nothing else in the program changes.
"""

import sys

import joblib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import pywren.joblib  # noqa: F401 -- registers the backend


def featurize(images):
    """Return the features of some images: the strengths of their waves, and the means of their rows and columns."""
    waves = np.abs(np.fft.rfft2(images)).reshape(len(images), -1)
    return np.hstack([waves, images.mean(axis=1), images.mean(axis=2), images.reshape(len(images), -1)])


digits = load_digits()
count = int(sys.argv[1]) if len(sys.argv) > 1 else len(digits.images)
images, labels = digits.images[:count], digits.target[:count]
search = GridSearchCV(
    make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    {"logisticregression__C": [0.001, 0.01, 0.1]},
    cv=3,
    refit=False,  # the best model is fitted below, outside the ``with`` block, where no call is needed
)

with joblib.parallel_config(backend="pywren"):
    parts = joblib.Parallel()(joblib.delayed(featurize)(part) for part in np.array_split(images, 8))
    features = np.vstack(parts)
    seen, unseen, seen_labels, unseen_labels = train_test_split(features, labels, random_state=0, stratify=labels)
    search.fit(seen, seen_labels)

model = search.estimator.set_params(**search.best_params_).fit(seen, seen_labels)
best = search.best_params_["logisticregression__C"]
print(f"{features.shape[1]} features of {len(features)} images; the best C is {best}")
print(f"accuracy on images not seen: {model.score(unseen, unseen_labels):.3f}")
