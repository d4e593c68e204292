"""Probabilities that mean what they say: one temperature for a network, fitted where labels are known."""
import numpy as np

LEAST = 1000  # labelled pixels from which a temperature is fitted
RANGE = 1 / 4, 4  # of temperatures: what lies beyond says more of the tiles than of the network
FLOOR = 1e-12  # a probability below it counts as this


def tempered(sums, temperature):
    """Probabilities of a pixel's classes, float32 [C, ...], from their sums over windows and views (float32
    [C, ...], 0 or more): their shares to the power of 1 / temperature, made shares again (temperature
    scaling, Guo et al., On Calibration of Modern Neural Networks, 2017). Their order stays as it is."""
    shares = sums / np.maximum(sums.sum(0), 1e-9)  # 0: of no window, where no pixel is valid
    if temperature == 1:
        return shares
    np.log(np.maximum(shares, FLOOR, out=shares), out=shares)
    shares -= shares.max(0)
    shares *= np.float32(1 / temperature)
    np.exp(shares, out=shares)
    shares /= shares.sum(0)
    return shares


def fit_temperature(probabilities, labels):
    """The temperature, in RANGE and in four digits, at which labels (int [N]) are the likeliest by
    probabilities (float [N, C]); 1 where there are fewer than LEAST. In its inverse their likelihood has one
    maximum: its slope is halved to zero."""
    if len(labels) < LEAST:
        return 1.0
    logs = np.log(np.maximum(probabilities, FLOOR), dtype=np.float64)
    own = logs[np.arange(len(labels)), labels].mean()

    def slope(inverse):
        """Of the mean negative logarithm of the labels' probabilities."""
        weights = np.exp(inverse * (logs - logs.max(1, keepdims=True)))
        return ((weights * logs).sum(1) / weights.sum(1)).mean() - own

    low, high = 1 / RANGE[1], 1 / RANGE[0]
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return float(f"{1 / (low * high) ** 0.5:.4g}")
