"""Batches of one fixed shape."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfm.batching import batches


@given(n=st.integers(1, 60), batch_size=st.integers(1, 70))
def test_every_position_counts_exactly_once_in_order(n, batch_size):
    cut = list(batches(n, batch_size))
    counted = np.concatenate([batch.indices[batch.valid] for batch in cut])
    np.testing.assert_array_equal(counted, np.arange(n))


@given(n=st.integers(1, 60), batch_size=st.integers(1, 70))
def test_all_batches_have_one_shape(n, batch_size):
    for batch in batches(n, batch_size):
        assert batch.indices.shape == batch.valid.shape == (batch_size,)
        assert batch.indices.dtype == np.int32
        assert batch.valid.dtype == bool
        assert 0 <= batch.indices.min() <= batch.indices.max() < n
        assert batch.valid.any()


def test_the_last_batch_is_filled_with_the_last_position():
    *_, last = batches(7, 3)
    np.testing.assert_array_equal(last.indices, [6, 6, 6])
    np.testing.assert_array_equal(last.valid, [True, False, False])


@pytest.mark.parametrize(("n", "batch_size"), [(0, 4), (4, 0), (-1, 4), (4, -1)])
def test_nothing_to_cut_is_an_error(n, batch_size):
    with pytest.raises(ValueError, match="positive batch size"):
        list(batches(n, batch_size))
