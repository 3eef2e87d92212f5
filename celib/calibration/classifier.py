"""A classifier and the map that repairs its probabilities, as one estimator."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import check_cv, cross_val_predict
from sklearn.utils import get_tags, indexable
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_is_fitted,
    column_or_1d,
    has_fit_parameter,
)

from celib.arguments.arrays import same_labels
from celib.arguments.errors import refuse_shape, refuse_type
from celib.calibration.inputs import Floats


class CalibratedClassifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]
    """Any classifier of scikit-learn, with a calibrator of celib behind it.

    Use it to get one estimator with calibrated probabilities when there are no examples to spare
    for the calibrator. With a set that the classifier has not seen, fit the calibrator to the
    predictions on it: the classifier is then trained once and not ``cv + 1`` times.

    By cross-validation the classifier predicts every example once without having seen it. The
    calibrator is fitted to these predictions, and the classifier itself then to all examples, as in
    scikit-learn's ``CalibratedClassifierCV(ensemble=False)``, which knows three methods of its own.

    A calibrator with ``input="probs"`` gets ``predict_proba``; one with ``input="logits"`` gets
    ``decision_function``, or, where there is none, ``predict_log_proba``.

    Args:
        estimator: the classifier. One that is fitted already comes as
            ``sklearn.frozen.FrozenEstimator(classifier)``: then X and y are held-out examples, and
            the calibrator is fitted to all of them at once.
        calibrator: a :class:`TemperatureScaling`, :class:`VectorScaling`, :class:`PlattScaling` or
            :class:`IsotonicCalibration`.
        cv: the number of folds, or a splitter of scikit-learn, or the splits themselves.

    Attributes:
        estimator_: the classifier, fitted to all examples.
        calibrator_: the calibrator, fitted to the predictions out of the folds.
        classes_: the labels.

    Raises:
        TypeError, ValueError: as the classifier and the calibrator do; ValueError also if a class
            has fewer examples than there are folds, or if the scores have no column for each class
            (``SVC(decision_function_shape="ovo")``).

    Source: Platt (1999), Advances in Large Margin Classifiers, for the folds.

    Example: labels in words, and a forest, whose votes of 0 and 1 need ``clip``.
        >>> from sklearn.datasets import load_breast_cancer
        >>> from sklearn.ensemble import RandomForestClassifier
        >>> from celib.calibration import TemperatureScaling
        >>> X, y = load_breast_cancer(return_X_y=True)
        >>> words = np.array(["malignant", "benign"])[y]
        >>> forest = RandomForestClassifier(20, random_state=0)
        >>> repair = TemperatureScaling(input="probs", clip=1e-3)
        >>> model = CalibratedClassifier(forest, repair, cv=3).fit(X, words)
        >>> model.classes_.tolist(), model.predict_proba(X[:1]).shape
        (['benign', 'malignant'], (1, 2))
    """

    def __init__(self, estimator: Any, calibrator: Any, *, cv: Any = 5) -> None:
        self.estimator = estimator
        self.calibrator = calibrator
        self.cv = cv

    def fit(
        self, X: Any, y: Any, sample_weight: ArrayLike | None = None, **fit_params: Any
    ) -> Self:
        """Fit both; what else is given goes to the ``fit`` of the classifier, fold by fold."""
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        if getattr(self.calibrator, "input", None) not in ("logits", "probs"):
            refuse_type("calibrator", self.calibrator, "one of those of celib.calibration")
        same_labels({"X": X, "y": y, "sample_weight": sample_weight})
        X, y, sample_weight = indexable(X, y, sample_weight)
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        options, params = self._routed(sample_weight, fit_params)
        self.estimator_ = clone(self.estimator)
        if isinstance(self.estimator_, FrozenEstimator):
            check_is_fitted(self.estimator_)
            self.classes_: NDArray[Any] = self.estimator_.classes_
            scores = self._scores(self.estimator_, X)
        else:
            self.classes_ = np.unique(y)
            scores = self._out_of_folds(X, y, options)
            self.estimator_.fit(X, y, **params)
        if scores.ndim == 2 and scores.shape[1] == 1:
            scores = scores[:, 0]
        columns = 2 if scores.ndim == 1 else scores.shape[1]
        if columns != self.classes_.size:
            refuse_shape(
                f"{self._method(self.estimator_)} of X",
                scores.shape,
                f"a column for each of the {self.classes_.size} classes",
            )
        known = dict(zip(self.classes_.tolist(), range(columns), strict=True))
        unknown = [label for label in np.unique(y).tolist() if label not in known]
        if unknown:
            raise ValueError(f"y has the label {unknown[0]!r}: expected one of those of estimator")
        # As numbers of columns, so that a label may be missing among held-out examples.
        target = np.array([known[label] for label in y.tolist()])
        self.calibrator_ = clone(self.calibrator).fit(scores, target, sample_weight=sample_weight)
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.estimator_, name):
                setattr(self, name, getattr(self.estimator_, name))
        return self

    def predict_proba(self, X: Any) -> Floats:
        """Calibrated probabilities, shape (N, C), in the order of ``classes_``."""
        check_is_fitted(self)
        p: Floats = self.calibrator_.predict_proba(self._scores(self.estimator_, X))
        return p

    def predict_log_proba(self, X: Any) -> Floats:
        """Their logarithms."""
        check_is_fitted(self)
        log_p: Floats = self.calibrator_.predict_log_proba(self._scores(self.estimator_, X))
        return log_p

    def predict(self, X: Any) -> NDArray[Any]:
        """The label of the greatest calibrated probability."""
        check_is_fitted(self)
        result: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(1)]
        return result

    def _routed(
        self, sample_weight: ArrayLike | None, fit_params: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the cross-validation and the last fit of the classifier get."""
        given = dict(fit_params)
        if sample_weight is not None:
            given["sample_weight"] = sample_weight
        if get_config()["enable_metadata_routing"]:
            routed = process_routing(self, "fit", **given)
            return {
                "params": {**routed.estimator.fit, **routed.splitter.split}
            }, routed.estimator.fit
        groups = given.pop("groups", None)
        if sample_weight is not None and not has_fit_parameter(self.estimator, "sample_weight"):
            warnings.warn(
                f"{type(self.estimator).__name__}.fit does not take sample_weight: the weights "
                "are used for the calibrator alone",
                UserWarning,
                stacklevel=3,
            )
            del given["sample_weight"]
        return {"params": given, "groups": groups}, given

    def _out_of_folds(self, X: Any, y: Any, options: dict[str, Any]) -> Floats:
        labels, counts = np.unique(y, return_counts=True)
        folds = self.cv if isinstance(self.cv, int) else getattr(self.cv, "n_splits", 0)
        if counts.min() < folds:
            label = labels[counts.argmin()]
            raise ValueError(
                f"y has {counts.min()} examples of {label}: expected at least one sample for "
                f"each of the {folds} folds"
            )
        cv = check_cv(self.cv, y, classifier=True)
        method = self._method(self.estimator_)
        with np.errstate(divide="ignore"):  # the logarithm of a vote of 0
            scores: Floats = cross_val_predict(
                self.estimator_, X, y, cv=cv, method=method, **options
            )
        return scores

    def _method(self, estimator: Any) -> str:
        if self.calibrator.input == "probs":
            return "predict_proba"
        return (
            "decision_function" if hasattr(estimator, "decision_function") else "predict_log_proba"
        )

    def _scores(self, estimator: Any, X: Any) -> Floats:
        with np.errstate(divide="ignore"):
            scores: Floats = getattr(estimator, self._method(estimator))(X)
        return scores

    def get_metadata_routing(self) -> MetadataRouter:
        """What scikit-learn's metadata routing has to know."""
        fit = MethodMapping().add(caller="fit", callee="fit")
        split = MethodMapping().add(caller="fit", callee="split")
        router = MetadataRouter(owner=self).add_self_request(self)
        router.add(estimator=self.estimator, method_mapping=fit)
        return router.add(splitter=check_cv(self.cv), method_mapping=split)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        tags.input_tags = inner.input_tags
        return tags
