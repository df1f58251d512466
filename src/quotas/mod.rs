use crate::kernel::names::Email;
use crate::kernel::problem::Problem;
pub async fn reserve_app(_tx: &mut sqlx::PgConnection, _email: &Email) -> Result<(), Problem> {
    Ok(())
}
pub async fn release_app(_tx: &mut sqlx::PgConnection, _email: &Email) -> Result<(), Problem> {
    Ok(())
}
