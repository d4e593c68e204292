"""Batch normalisation in TensorFlow's one kernel while a network trains; Keras's own, of several operations,
goes over memory more than twice as often, forward and back."""
import contextlib
import functools

import keras
import tensorflow as tf


@contextlib.contextmanager
def in_one_kernel(network):
    """Has the trainable normalisations of a network, traced meanwhile, computed by `normalise`, but for those
    that devices share (synchronized). Afterwards, and when saved, the layers are Keras's own again."""
    layers = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)
              and layer.trainable and not layer.synchronized]
    for layer in layers:
        object.__setattr__(layer, "call", functools.partial(normalise, layer))
    try:
        yield
    finally:
        for layer in layers:
            object.__delattr__(layer, "call")


def normalise(layer, inputs, training=None, mask=None):
    """What a BatchNormalization layer gives for inputs [N, H, W, C], and does to its moving statistics, in
    training: the variance that it keeps is that of the batch itself."""
    if not training:
        return type(layer).call(layer, inputs, training=training, mask=mask)
    outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
        inputs, tf.cast(layer.gamma, tf.float32), tf.cast(layer.beta, tf.float32), epsilon=layer.epsilon,
        is_training=True)
    shape = tf.shape(inputs)
    count = tf.cast(tf.reduce_prod(shape[:3]), tf.float32)
    variance *= (count - 1) / count  # the kernel's is the estimate of all batches'
    for moving, value in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        moving.assign(moving * layer.momentum + value * (1 - layer.momentum))
    return outputs
