use crate::core::Core;
use crate::kernel::ids::AppId;
use crate::sagas::{Run, StepError};
pub async fn unbind_everything(_c: &Core, _r: &Run, _a: AppId) -> Result<(), StepError> {
    Ok(())
}
