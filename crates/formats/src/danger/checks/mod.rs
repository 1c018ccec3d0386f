//! Conditions on calls that patterns cannot express: they relate arguments to each other and to the state.

mod bytes;
mod numpy;
mod python;
mod torch;

pub(super) use numpy::array_bytes;
pub(super) use torch::copied_tensor;

use super::values::Values;
use super::vouched::Check;
use crate::pickle::Object;

/// Whether a call fulfills a condition.
pub(super) fn holds(check: Check, values: &Values<'_>, object: &Object) -> bool {
    match check {
        Check::Nothing => true,
        Check::FewBytes => python::has_few_bytes(values, object),
        Check::NumberState => python::has_the_state_of_a_number(values, object),
        Check::Reconstructs => python::reconstructs_without_arguments(values, object),
        Check::FitsStorage => torch::fits_its_storage(values, object),
        Check::FitsStorageWhole => torch::fits_its_storage_whole(values, object),
        Check::RebuildsType => torch::rebuilds_a_vouched_type(values, object),
        Check::TakesWhole => torch::takes_a_whole_tensor(values, object),
        Check::DtypeState => numpy::has_the_state_of_its_dtype(values, object),
        Check::ScalarDtype => numpy::is_a_scalar(values, object),
        Check::JoblibArray => numpy::describes_an_array(values, object),
        Check::ArrayState => numpy::has_the_state_of_an_array(values, object),
    }
}
