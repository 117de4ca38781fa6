"""Where other libraries keep the weights of AlexNet."""

from deepmodels.weights.convert import Rules, conv, dense, flatten_dense

TORCHVISION: Rules = (
    *conv("features.0", "conv1"),
    *conv("features.3", "conv2"),
    *conv("features.6", "conv3"),
    *conv("features.8", "conv4"),
    *conv("features.10", "conv5"),
    *dense("classifier.1", "dense1", flatten_dense(256, 6, 6)),
    *dense("classifier.4", "dense2"),
    *dense("classifier.6", "head"),
)
